"""Ask a built model a question: the trained adapter through transformers, or an export through llama.cpp."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlmbuild.cli.built import as_built, build
from dlmbuild.cli.words import real, whole
from dlmbuild.doc.names import QUANTISATIONS
from dlmbuild.errors import StoreError, UsageError

if TYPE_CHECKING:
    from dlmbuild.build.project import Document, Project
    from dlmbuild.build.trained import Trained

_LONGEST_QUESTION = 1 << 20
"""In bytes. No base reads as much."""
_LARGEST_WEIGHT = 10
_LEAST_TEMPERATURE = 0.001
"""Below it, what is divided by the temperature leaves the range of fp32, and the likeliest token is all there is."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("document", help="name of a document of this project, or its path")
    parser.add_argument("question", nargs="*", help="in quotes; read from standard input if left out")
    model = parser.add_mutually_exclusive_group()
    model.add_argument(
        "--export",
        choices=QUANTISATIONS,
        metavar="QUANT",
        help="ask the exported GGUF, for example Q4_K_M, in llama.cpp",
    )
    model.add_argument("--base", action="store_true", help="ask the base without the adapter, to compare")
    adapter = parser.add_mutually_exclusive_group()
    adapter.add_argument(
        "--adapter",
        metavar="NAME",
        help="of a document that names adapters: ask with this one, or mix (default: what its gate chooses)",
    )
    adapter.add_argument(
        "--mix", type=_mix, metavar="NAME=WEIGHT,…", help="ask with a weighted sum of its adapters, such as a=0.7,b=0.3"
    )
    parser.add_argument(
        "--max-tokens", type=whole(1, 32768), default=256, help="longest answer in tokens (default 256)", metavar="N"
    )
    parser.add_argument(
        "--temp",
        type=real(f"0 or a number from {_LEAST_TEMPERATURE} to 2", lambda t: t == 0 or _LEAST_TEMPERATURE <= t <= 2),
        help="temperature, up to 2; 0 always takes the likeliest token (default: the document's)",
    )
    parser.add_argument(
        "--top-p",
        type=real("a number above 0 and up to 1", lambda p: 0 < p <= 1),
        help="smallest share of probability to sample from, up to 1 (default: the document's)",
    )
    # llama.cpp's seeds have 32 bits, and the largest means that it draws one itself.
    parser.add_argument("--seed", type=whole(0, 2**32 - 2), default=42, help="for sampling (default 42)")


def run(arguments: argparse.Namespace) -> int:
    if len(arguments.question) > 1:
        count = len(arguments.question)
        raise UsageError("the question is not in quotes", why=f"it came as {count} words", do=_in_quotes(arguments))
    question = _question(*arguments.question).strip()
    if not question:
        raise UsageError("there is no question", do=f'dlm prompt {arguments.document} "How …?"')
    print(answers(arguments.document, [question], arguments)[0])
    return 0


def _in_quotes(arguments: argparse.Namespace) -> str:
    """The command that was typed, with quotes around the question."""
    typed, words = sys.argv[1:], arguments.question
    for at in range(len(typed)):
        if typed[at : at + len(words)] == words:
            return shlex.join(["dlm", *typed[:at], " ".join(words), *typed[at + len(words) :]])
    return shlex.join(["dlm", "prompt", arguments.document, " ".join(words)])  # an option stands between the words


def _question(given: str | None = None) -> str:
    """The question as text, from the command line or standard input."""
    data = sys.stdin.buffer.read(_LONGEST_QUESTION + 1) if given is None else os.fsencode(given)
    if len(data) > _LONGEST_QUESTION:
        raise UsageError("the question is too long", why=f"at most {_LONGEST_QUESTION} bytes are read", do="shorten it")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            "the question is not UTF-8 text",
            why=f"its byte {error.start + 1} is 0x{data[error.start]:02x}",
            do="write it in UTF-8, for example through: iconv -t UTF-8",
        ) from None


def answers(document: str, questions: list[str], arguments: argparse.Namespace) -> list[str]:
    """What the built model answers to each question."""
    from dlmbuild.build.project import find_document
    from dlmbuild.build.reading import base_identity, checkpoint, read_json
    from dlmbuild.build.trained import adapters as trainings
    from dlmbuild.jobs.local import require_extra, run_job

    project, found = find_document(document, Path.cwd())
    gated = found.gated and not (arguments.base or arguments.mix or arguments.adapter)
    asked = list(trainings([found])) if gated else _asked(found, arguments)
    store = found.store
    if not store.document.exists():
        raise _unbuilt(project, "nothing has been built from it yet", f"train:{found.name}")
    if _changed(project, found):
        print(f"{found.path} has changed since this was built; `doit` brings the model up to date", file=sys.stderr)
    with as_built(store.document, project, f"check:{found.name}"):
        data = read_json(store.document)
        params = {
            "questions": questions,
            "system_prompt": data["system_prompt"],
            "sampling": _sampling(arguments, data["export"]),
        }
    adapters: dict[str, Path] = {}
    if arguments.export:
        require_extra("xllamacpp")
        if gated:
            asked = [_routed(project, found, questions)]
        (one,) = asked
        inputs = {"model": one.store.export(arguments.export) / f"model.{arguments.export}.gguf"}
        if not inputs["model"].exists():
            task = f"export:{one.title}:{arguments.export}"
            raise _unbuilt(project, f"{one.title} has no export {arguments.export}", task)
    else:
        require_extra("torch", "transformers", "peft")
        inputs = {}
        adapters = {one.name: _adapter(project, one) for one in asked}
        base = project.base_folder(found.base)
        if not base.facts.exists():
            raise _unbuilt(project, "its base has not been fetched", f"base:{found.base.key}")
        with as_built(base.facts, project, f"base:{found.base.key}"):
            inputs["base"] = checkpoint(base)
            for adapter in adapters.values():
                _require_its_base(adapter, base_identity(base), project, found)
    # Not below the store: a build that runs meanwhile sweeps what it finds there.
    with tempfile.TemporaryDirectory() as out, tempfile.TemporaryDirectory() as mixed:
        if arguments.mix:
            from dlmbuild.export.mix import mix

            mix(adapters, arguments.mix, Path(mixed))
            inputs["adapter"] = Path(mixed)
        elif gated and not arguments.export:
            inputs |= {"gate": _gate(project, found), **{f"of_{name}": path for name, path in adapters.items()}}
        elif asked and not arguments.export:
            (inputs["adapter"],) = adapters.values()
        result = run_job(
            "prompt_export" if arguments.export else "prompt",
            inputs=inputs,
            params=params,
            out=Path(out),
            log=store.logs / "prompt.log",
            progress=_tell,
            threads=_threads(),
        )
    _tell_choices(found, result.get("choices", []))
    return list(result["answers"])


def _routed(project: Project, found: Document, questions: list[str]) -> Trained:
    """The adapter that the gate chooses for the only question, which is asked of an export."""
    from dlmbuild.build.reading import checkpoint
    from dlmbuild.build.trained import chosen
    from dlmbuild.jobs.local import require_extra, run_job

    require_extra("torch", "transformers")
    inputs = {"gate": _gate(project, found), "base": checkpoint(project.base_folder(found.base))}
    with tempfile.TemporaryDirectory() as out:
        told = run_job(
            "route",
            inputs=inputs,
            params={"questions": questions},
            out=Path(out),
            log=found.store.logs / "route.log",
            progress=_tell,
            threads=_threads(),
        )
    (choice,) = told["choices"]
    _tell_choices(found, [choice])
    return chosen(found, choice["adapter"])


def _gate(project: Project, found: Document) -> Path:
    """The folder of the document's gate. Raises StoreError for one of other adapters, or on another base."""
    from dlmbuild.build.reading import base_identity, read_json

    config, task = found.store.gate / "gate_config.json", f"gate:{found.name}"
    if not config.exists():
        raise _unbuilt(project, "no gate has been trained to choose an adapter", task)
    with as_built(config, project, task):
        told = read_json(config)
        same = (told["adapters"], told["base"]) == (
            list(found.adapters),
            base_identity(project.base_folder(found.base)),
        )
    if not same:
        raise _unbuilt(project, "the gate is of other adapters, or on another base", task)
    return config.parent


def _tell_choices(found: Document, choices: list[dict[str, str]]) -> None:
    for choice in choices:
        print(f"{found.name}:{choice['adapter']} answers ({choice['why']})", file=sys.stderr)


def _asked(found: Document, arguments: argparse.Namespace) -> list[Trained]:
    """The adapter or built mix that is asked, or all that are mixed for this question; none where the base is asked."""
    from dlmbuild.build.trained import chosen
    from dlmbuild.doc.routing import NO_MIX_OF_DORA

    if arguments.mix and arguments.export:
        why, do = "an export is a file, and this mix is in none", "write it under export.mixes, and build it"
        raise UsageError("--mix goes without --export", why=why, do=do)
    if arguments.base and (arguments.mix or arguments.adapter):
        raise UsageError("--base goes without an adapter", do="leave one of the two out")
    if arguments.mix:
        mixed = [chosen(found, name, option="--mix") for name in arguments.mix]
        for one in mixed:
            if one.whole:
                why, do = NO_MIX_OF_DORA
                raise UsageError(f"{one.title} is in no mix", why=why, do=do)
        return mixed
    return [] if arguments.base else [chosen(found, arguments.adapter)]


def _mix(text: str) -> dict[str, float]:
    """`a=0.7,b=0.3` as weights by name."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        try:
            weight = float(number)
        except ValueError:
            weight = 0.0
        if not name or name in weights or not 0 < weight <= _LARGEST_WEIGHT:
            wanted = f"names, each once, with weights above 0 and up to {_LARGEST_WEIGHT}, such as a=0.7,b=0.3"
            raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")
        weights[name] = weight
    return weights


def _adapter(project: Project, trained: Trained) -> Path:
    """The adapter in use. Raises StoreError where it is not what was built: it would answer nonsense, or not at all."""
    from dlmbuild.build.reading import read_json
    from dlmbuild.store.outputs import AdapterVersions

    versions, task = AdapterVersions(trained.store.adapter), f"{'mix' if trained.parts else 'train'}:{trained.title}"
    try:
        adapter = versions.current()
    except StoreError as error:
        raise _unbuilt(project, f"{error.what}: {error.why}", task) from None
    with as_built(versions.index_file, project, task):
        files = {str(name): str(sha256) for name, sha256 in read_json(versions.index_file)["files"].items()}
    if problem := versions.damaged(files, project.archive.cache):
        raise _unbuilt(project, problem, task)
    return adapter


def _require_its_base(adapter: Path, base: Mapping[str, Any], project: Project, found: Document) -> None:
    """Refuse to put an adapter on a base that it was not trained on, which answers as nothing that was ever built."""
    from dlmbuild.build.reading import read_json

    run = adapter / "training_run.json"
    with as_built(run, project, f"train:{found.name}"):
        trained_on = read_json(run)["base"]
        name = trained_on["name"]
    if trained_on != base:
        raise StoreError(
            f"the adapter of {found.name} was trained on the base {name}, and {found.path} names another one now",
            why="on another base it would answer nonsense",
            do=f"{build(project, f'train:{found.name}')}, or name that base again",
        )


def _changed(project: Project, document: Document) -> bool:
    """Whether the document's file is another than the one that was last checked."""
    record = project.archive.last(document.store.root, "check")
    seen = record.ingredients.inputs.get("document") if record else None
    return seen is not None and seen != project.archive.cache.digest(project.folder / document.path)


def _sampling(arguments: argparse.Namespace, export: Mapping[str, Any]) -> dict[str, Any]:
    temperature = export["default_temperature"] or 0.0 if arguments.temp is None else arguments.temp
    if temperature < _LEAST_TEMPERATURE:
        temperature = 0.0
    top_p = export["default_top_p"] or 1.0 if arguments.top_p is None else arguments.top_p
    return {"temperature": temperature, "top_p": top_p, "seed": arguments.seed, "max_tokens": arguments.max_tokens}


def _unbuilt(project: Project, why: str, task: str) -> StoreError:
    return StoreError("the model cannot be asked yet", why=why, do=build(project, task))


def _threads() -> int:
    from dlmbuild.hardware.detect import this_machine

    return this_machine().cores


def _tell(what: str, done: float = 0, total: float = 0, **numbers: float) -> None:
    # Only a person at a terminal wants to know; an answer that is piped somewhere comes alone.
    if sys.stderr.isatty():
        print(f"\r\033[K{what} …" if what != "answering" else "\r\033[K", end="", file=sys.stderr, flush=True)
