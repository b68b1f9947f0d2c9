"""Say what this machine can do for a build, and, of a document, how it would be trained here and whether it fits."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlmbuild.cli.words import as_json
from dlmbuild.errors import DlmError, StoreError, UsageError

if TYPE_CHECKING:
    from dlmbuild.build.project import Project
    from dlmbuild.build.trained import Trained
    from dlmbuild.hardware.detect import Machine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "document", nargs="?", help="name or path of a document: its plan, and the memory that it takes"
    )
    parser.add_argument("--adapter", metavar="NAME", help="of a document that names adapters (default: its first)")
    parser.add_argument("--selftest", action="store_true", help="train the same five steps twice and compare the bytes")
    parser.add_argument(
        "--calibrate", action="store_true", help="train a few steps of the document, to tell how long training takes"
    )
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    from dlmbuild.hardware.detect import this_machine
    from dlmbuild.hardware.doctor import describe, note_selftest
    from dlmbuild.hardware.fit import refusals
    from dlmbuild.store.layout import Home

    if arguments.calibrate and not arguments.document:
        raise UsageError("--calibrate trains steps of a document", do="dlm doctor DOCUMENT --calibrate")
    home, machine = Home.default(), this_machine()
    adapters = []
    if arguments.selftest:
        adapters = [_five_steps(machine, f"{turn} of 2") for turn in (1, 2)]
        note_selftest(home, machine, adapters)
    facts = describe(home, machine)
    facts["accelerator"] = _accelerator(machine, facts["packages"].get("torch", ""))
    facts["refused"] = refusals(machine, facts["accelerator"])
    facts["ollama"] = _ollama()
    if adapters:
        facts["selftest"] = adapters
    if arguments.document:
        facts["document"] = _document(arguments.document, arguments.adapter, facts, arguments.calibrate)
        facts["document"]["ollama"] = _refused_by_ollama(arguments.document, facts["ollama"])
    print(as_json(facts) if arguments.json else "\n".join(_text(facts)))
    return 0 if len(set(adapters)) < 2 else 1


_PATIENCE_SECONDS = 1.0
"""For an Ollama to say its version: one that runs does so in milliseconds."""


def _ollama() -> dict[str, Any]:
    """The Ollama that answers, or why none does."""
    from dlmbuild.export.ollama.client import OllamaServer

    try:
        server = OllamaServer(_PATIENCE_SECONDS)
        return {"address": server.address, "version": server.version, "adapters": server.takes_adapters}
    except DlmError as error:
        return {"version": None, "why": error.what, "do": error.do}
    except ImportError:
        return {"version": None, "why": "the Python package ollama is not here", "do": "pip install 'dlmbuild[ollama]'"}


def _refused_by_ollama(named: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """The exports of a document that the Ollama here does not take: quantisation → why. Empty where none answers."""
    from dlmbuild.build.project import find_document
    from dlmbuild.build.reading import read_json
    from dlmbuild.export.ollama.client import OllamaServer

    _, document = find_document(named, Path.cwd())
    manifests = [document.store.export(name) / "export_manifest.json" for name in document.store.exported()]
    told: dict[str, Any] = {}
    if not found["version"]:
        return told
    server = OllamaServer(_PATIENCE_SECONDS)
    for manifest in manifests:
        try:
            server.require(template=read_json(manifest)["ollama"]["template"] is not None)
        except DlmError as error:
            told[str(manifest.parent.relative_to(document.store.exports))] = f"{error.what}: {error.why}"
    return told


def _five_steps(machine: Machine, turn: str) -> str:
    print(f"self-test {turn}: five training steps in a process of their own", file=sys.stderr)
    params = {"device": machine.device, "precision": machine.precision, "threads": machine.threads}
    return str(_job("selftest", {}, params, machine.threads)["adapter"])


def _accelerator(machine: Machine, torch: str) -> dict[str, Any]:
    """What PyTorch says of a GPU. It is only asked, in a process of its own, where there may be one."""
    if not torch:
        return {"kind": "unknown", "why": "PyTorch, which knows, is not installed"}
    if machine.device == "cpu" and "rocm" not in torch:
        return {"kind": "none", "why": f"PyTorch {torch} computes on the CPU here"}
    return _job("accelerator", {}, {}, 1)


def _job(name: str, inputs: Mapping[str, Path], params: Mapping[str, Any], threads: int) -> dict[str, Any]:
    from dlmbuild.jobs.local import require_extra, run_job

    require_extra("torch", "transformers", "peft", "trl", "accelerate", "datasets", "safetensors")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        return run_job(name, inputs=inputs, params=params, out=out, log=out / f"{name}.log", threads=threads)


def _document(named: str, adapter: str | None, machine: Mapping[str, Any], calibrate: bool) -> dict[str, Any]:
    """What there is to say of one document."""
    from dlmbuild.build.forecast import known_vocabulary, longest_row, memory, planned
    from dlmbuild.build.project import find_document
    from dlmbuild.build.trained import adapters, chosen
    from dlmbuild.hardware.fit import smaller, verdict

    project, document = find_document(named, Path.cwd())
    trained = chosen(document, adapter) if adapter else next(adapters([document]))
    if trained.parts:
        raise UsageError(f"{adapter} is a mix, which is not trained", do=f"--adapter {next(iter(trained.parts))}")
    plan, origins, cautious = planned(trained, project)
    longest, known = longest_row(trained, plan)
    found = memory(trained, project, plan)
    free = machine["accelerator"].get("free") if plan["device"] == "cuda" else machine["memory_free"]
    told: dict[str, Any] = {
        "name": trained.title,
        "base": document.base.text,
        "plan": plan,
        "origins": origins,
        "cautious": cautious,
        "longest_row": longest,
        "longest_row_known": known,
        "vocabulary": known_vocabulary(trained),
        "estimate": found.as_data() if found else None,
        "free": free,
    }
    if found and free:
        told["verdict"] = verdict(found.total, free)
        if told["verdict"] != "fits":
            change = smaller(plan, lambda other: memory(trained, project, other) or found, free, longest)
            told["instead"] = {"write": dict(change.values), "total": change.total} if change else None
    if calibrate:
        told["measured"] = _calibrated(trained, project, plan)
    return told


def _calibrated(trained: Trained, project: Project, plan: Mapping[str, Any]) -> dict[str, Any]:
    from dlmbuild.build.reading import base_identity, checkpoint, read_json
    from dlmbuild.hardware.plan import by_one_process
    from dlmbuild.train.wordings import wordings

    dataset = trained.store.dataset
    if not dataset.exists():
        raise StoreError(f"the rows of {trained.title} are not made yet", do=f"doit dataset:{trained.title}")
    base = project.base_folder(trained.document.base)
    print("calibration: a few training steps in a process of their own", file=sys.stderr)
    inputs = {"base": checkpoint(base), "dataset": dataset}
    if plan["retention"]:
        if not base.retention.exists():
            raise StoreError(
                "what the base says by itself is not known yet", do=f"doit retention:{trained.document.base.key}"
            )
        inputs["retention"] = base.retention
    first = {**{name: value for name, value in plan.items() if name != "preference"}, **by_one_process(plan)}
    found = _job("calibrate", inputs, {"plan": first, "base_identity": base_identity(base)}, plan["threads"])
    counts = read_json(dataset)["counts"]["rows"]
    rows = sum(count * wordings(kind, plan) for kind, count in counts.items())
    of_step = plan["micro_batch_size"] * plan["grad_accum"] * plan["world_size"]
    epoch = ceil(rows / of_step) * found["seconds_per_step"]
    return {**found, "seconds_per_epoch": epoch, "seconds": found["seconds_before"] + epoch * plan["num_epochs"]}


def _text(facts: Mapping[str, Any]) -> Iterator[str]:
    from dlmbuild.build.forecast import gib

    missing = [name for name, version in facts["packages"].items() if not version]
    here = ", ".join(f"{name} {version}" for name, version in facts["packages"].items() if version)
    exact = {
        "strong": "strong: the same document trains to the same bytes here, every time",
        "best-effort": "best-effort: two trainings agree nearly; some kernels here are not exact",
        "advisory": "advisory: two trainings of the same steps differed here",
    }[facts["determinism"]]
    known = "measured" if facts["determinism_measured"] else "not measured here; dlm doctor --selftest does"
    free = f", {gib(facts['memory_free'])} free" if facts["memory_free"] else ""
    yield f"device        {facts['device']} ({facts['tier']}), {facts['cores']} cores, {gib(facts['memory'])}{free}"
    yield f"GPU           {_gpu(facts['accelerator'])}"
    yield f"precision     {_precision(facts)}"
    yield f"determinism   {exact} ({known})"
    yield f"packages      {here or 'none of those that train and export'}"
    if missing:
        yield f"not here      {', '.join(missing)}"
        yield "              → pip install 'dlmbuild[train]'"
    yield from _ollama_text(facts["ollama"], facts.get("document", {}).get("ollama", {}))
    yield f"home          {facts['home']}, {gib(facts['free'])} free"
    yield f"sha256        {facts['sha256_bytes_per_s'] / 1e9:.1f} GB/s"
    for turn, digest in enumerate(facts.get("selftest", ()), 1):
        yield f"self-test {turn}   adapter {digest}"
    for at, (setting, why) in enumerate(facts["refused"].items()):
        yield f"{'' if at else 'refused':<14}{setting}: {why}"
    if "document" in facts:
        yield ""
        yield from _document_text(facts["document"])


def _ollama_text(found: Mapping[str, Any], refused: Mapping[str, str]) -> Iterator[str]:
    if not found["version"]:
        yield f"ollama        {found['why']}"
        yield f"              → {found['do']}"
        return
    apart = {True: "and those made of base and adapter", False: "and refuses base and adapter apart"}
    also = apart.get(found["adapters"], "and does not say which version it is")
    yield f"ollama        {found['version']} at {found['address']}: takes whole models, {also}"
    for quant, why in refused.items():
        yield f"              not {quant}: {why}"


def _gpu(found: Mapping[str, Any]) -> str:
    from dlmbuild.build.forecast import gib

    if found["kind"] in ("none", "unknown"):
        return f"{found['kind']}: {found.get('why', 'PyTorch finds none that it can use')}"
    if found["kind"] == "mps":
        return "Apple's, which shares the machine's memory"
    able = [name.replace("_", " ") for name in ("bf16", "fp16", "flash_attention", "bitsandbytes") if found[name]]
    text = f"{found['name']} ({found['kind']} {found['driver']}, {found['sm']}), {gib(found['memory'])}, "
    text += f"{gib(found['free'])} free; {', '.join(able)}"
    if found["devices"] > 1:
        text += f"; the first of {found['devices']}"
    return text + ("; not used: this version trains on AMD machines on the CPU" if found["kind"] == "rocm" else "")


def _precision(facts: Mapping[str, Any]) -> str:
    said = f"{facts['precision']} unless a document says otherwise"
    if facts["device"] == "cpu" and facts["precision"] == "fp32":
        said += "; bf16, for which this processor has no instructions, saves memory, not time"
    return said


def _document_text(told: Mapping[str, Any]) -> Iterator[str]:
    from dlmbuild.build.forecast import gib
    from dlmbuild.data.vocabulary import told as vocabulary_told

    yield f"{told['name']} on {told['base']}"
    for name, value in told["plan"].items():
        if isinstance(value, dict):
            value = [f"{inner} {of}" for inner, of in value.items()]
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        yield f"  {name:<24}{shown}  ({told['origins'][name]})"
    if told["cautious"]:
        yield "  the recipe is a cautious one for any base: none was measured on this one"
    if told["vocabulary"]:
        yield f"words         {vocabulary_told(told['vocabulary'])}"
    rows = told["plan"]["micro_batch_size"]
    whose = "the longest of the last build" if told["longest_row_known"] else "the longest that there may be"
    batch = f"{rows} row{'s' if rows > 1 else ''} of {told['longest_row']} tokens"
    yield f"memory at the peak, with {batch} at once ({whose})"
    if told["estimate"] is None:
        yield "  not known: the base's configuration does not tell its shape"
        return
    for part, size in told["estimate"].items():
        yield f"  {part:<24}{gib(size):>10}"
    if "verdict" in told:
        yield f"  {told['verdict']}: {gib(told['free'])} are free"
    else:
        yield "  how much is free is not known"
    if "instead" in told and not told["longest_row_known"]:
        yield f"  → doit dataset:{told['name']}   (says how long the rows really are, if not that long)"
    if "instead" in told:
        change = told["instead"]
        values = ", ".join(f"{name}: {value}" for name, value in change["write"].items()) if change else ""
        yield (
            f"  → write under training: {values}   (then {gib(change['total'])})"
            if change
            else "  → take a smaller base, or train on a larger machine: no setting makes it fit"
        )
    if "measured" in told:
        yield from _measured_text(told["measured"], told["plan"])


def _measured_text(found: Mapping[str, Any], plan: Mapping[str, Any]) -> Iterator[str]:
    from dlmbuild.build.forecast import gib

    before, seconds = found["seconds_before"], found["seconds"]
    yield f"measured in {found['steps']} steps"
    if before:
        yield f"  {'before the first step':<24}{before:8.1f} s, the first time; what comes out is kept"
    yield f"  {'an epoch':<24}{found['seconds_per_epoch']:8.1f} s"
    without = ", without the preferences" if "preference" in plan else ""
    yield f"  {'all ' + str(plan['num_epochs']) + ' epochs':<24}{seconds - before:8.1f} s{without}"
    if before:
        yield f"  {'a first training':<24}{seconds:8.1f} s{without}"
    if found["peak"]:
        yield f"  {'peak':<24}{gib(found['peak']):>10}"
