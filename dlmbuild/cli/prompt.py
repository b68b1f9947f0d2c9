"""Ask a built model a question: the trained adapter through transformers, or an export through llama.cpp."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlmbuild.errors import StoreError, UsageError

if TYPE_CHECKING:
    from dlmbuild.build.project import Document, Project


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("document", help="name of a document of this project, or its path")
    parser.add_argument("question", nargs="?", help="read from standard input if left out")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--export", metavar="QUANT", help="ask the exported GGUF, for example Q4_K_M, in llama.cpp")
    model.add_argument("--base", action="store_true", help="ask the base without the adapter, to compare")
    parser.add_argument("--max-tokens", type=int, default=256, help="longest answer in tokens (default 256)")
    parser.add_argument(
        "--temp", type=float, help="temperature; 0 always takes the likeliest token (default: the document's)"
    )
    parser.add_argument(
        "--top-p", type=float, help="smallest share of probability to sample from (default: the document's)"
    )
    parser.add_argument("--seed", type=int, default=42, help="for sampling (default 42)")


def run(arguments: argparse.Namespace) -> int:
    question = arguments.question if arguments.question is not None else sys.stdin.read()
    if not question.strip():
        raise UsageError("there is no question", do=f'dlm prompt {arguments.document} "How …?"')
    if arguments.max_tokens < 1 or (arguments.temp is not None and arguments.temp < 0):
        raise UsageError("--max-tokens must be at least 1 and --temp at least 0")
    print(answers(arguments.document, [question.strip()], arguments)[0])
    return 0


def answers(document: str, questions: list[str], arguments: argparse.Namespace) -> list[str]:
    """What the built model answers to each question."""
    from dlmbuild.build.project import find_document
    from dlmbuild.build.reading import checkpoint, read_json
    from dlmbuild.jobs.local import require_extra, run_job

    project, found = find_document(document, Path.cwd())
    store = found.store
    if not store.document.exists():
        raise _unbuilt(found.name, "train", "nothing has been built from it yet")
    if _changed(project, found):
        print(f"{found.path} has changed since this was built; `doit` brings the model up to date", file=sys.stderr)
    data = read_json(store.document)
    params = {
        "questions": questions,
        "system_prompt": data["system_prompt"],
        "sampling": _sampling(arguments, data["export"]),
    }
    if arguments.export:
        require_extra("xllamacpp")
        inputs = {"model": store.export(arguments.export) / f"model.{arguments.export}.gguf"}
        if not inputs["model"].exists():
            task = f"export:{found.name}:{arguments.export}"
            raise _unbuilt(found.name, task, f"it has no export {arguments.export}")
    else:
        from dlmbuild.store.outputs import AdapterVersions

        require_extra("torch", "transformers", "peft")
        inputs = {} if arguments.base else {"adapter": AdapterVersions(store.adapter).current()}
        base = project.base_folder(found.base)
        if not base.facts.exists():
            raise _unbuilt(found.name, f"base:{found.base.key}", "its base has not been fetched")
        inputs["base"] = checkpoint(base)
    # Not below the store: a build that runs meanwhile sweeps what it finds there.
    with tempfile.TemporaryDirectory() as out:
        result = run_job(
            "prompt_export" if arguments.export else "prompt",
            inputs=inputs,
            params=params,
            out=Path(out),
            log=store.logs / "prompt.log",
            progress=_tell,
            threads=_threads(),
        )
    return list(result["answers"])


def _changed(project: Project, document: Document) -> bool:
    """Whether the document's file is another than the one that was last checked."""
    from dlmbuild.store.built import read_built

    record = project.archive.records.load(read_built(document.store.root).get("check", ""))
    seen = record.ingredients.inputs.get("document") if record else None
    return seen is not None and seen != project.archive.cache.digest(project.folder / document.path)


def _sampling(arguments: argparse.Namespace, export: Mapping[str, Any]) -> dict[str, Any]:
    temperature = export["default_temperature"] or 0.0 if arguments.temp is None else arguments.temp
    top_p = export["default_top_p"] or 1.0 if arguments.top_p is None else arguments.top_p
    return {"temperature": temperature, "top_p": top_p, "seed": arguments.seed, "max_tokens": arguments.max_tokens}


def _unbuilt(name: str, task: str, why: str) -> StoreError:
    return StoreError(f"{name} cannot be asked yet", why=why, do=f"doit {task}")


def _threads() -> int:
    from dlmbuild.hardware.detect import this_machine

    return this_machine().cores


def _tell(what: str, done: float = 0, total: float = 0, **numbers: float) -> None:
    # Only a person at a terminal wants to know; an answer that is piped somewhere comes alone.
    if sys.stderr.isatty():
        print(f"\r\033[K{what} …" if what != "answering" else "\r\033[K", end="", file=sys.stderr, flush=True)
