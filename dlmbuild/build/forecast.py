"""What a training of a document will be, before it runs: its plan, where each value comes from, and its memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dlmbuild.build.locking import governing_lock, planning_facts
from dlmbuild.build.project import Document, Project
from dlmbuild.build.reading import checkpoint, read_json
from dlmbuild.build.trained import Trained
from dlmbuild.errors import HardwareError, InvalidDocument, StoreError
from dlmbuild.hardware.detect import Machine
from dlmbuild.hardware.memory import Estimate, Load, Setup, Shape, estimate

if TYPE_CHECKING:
    from dlmbuild.doc.document import Document as Parsed


class Planned(NamedTuple):
    """A resolved plan. `origins` tells for each value: document, recipe, lock, machine, base or default."""

    plan: Mapping[str, Any]
    origins: Mapping[str, str]
    cautious: bool
    """Whether the recipe is one for any base, measured on none."""


def planned(trained: Trained, project: Project) -> Planned:
    """An adapter's plan as a build would make it now. The base has to be here; raises what the `plan` step would."""
    from dlmbuild.doc.document import as_data, parse

    document = trained.document
    if not project.base_folder(document.base).facts.exists():
        raise StoreError(f"the base {document.base.text} is not here yet", do=f"doit base:{document.base.key}")
    path, here = project.folder / document.path, Path.cwd()
    parsed = parse(path.relative_to(here) if path.is_relative_to(here) else path)
    written = as_data(parsed)["training"]
    base, facts = read_json(project.base_folder(document.base).facts), planning_facts(document, project)
    plan = resolved(written, facts, base, lambda: parsed)
    lock = {} if project.lock_mode == "update" else governing_lock(document, project) or {}
    keys = {path[1] for path in parsed.marks if len(path) == 2}
    if trained.name:
        plan = plan["adapters"][trained.name]
        written |= written["adapters"][trained.name]
        keys |= {path[3] for path in parsed.marks if path[:-1] == ("training", "adapters", trained.name)}
    return Planned(
        plan,
        _origins(plan, written, keys, facts["recipe"], lock),
        not facts["recipe"]["measured"],
    )


def resolved(
    written: Mapping[str, Any], facts: Mapping[str, Any], base: Mapping[str, Any], read: Callable[[], Parsed]
) -> dict[str, Any]:
    """The plan of what a document says about training, by the `planning_facts`. `read` gives positions for mistakes."""
    from dlmbuild.hardware.plan import refused_modules, resolve_plan

    if refused := refused_modules(written, base):
        parsed = read()
        for key, wrong in refused.items():
            wrong.where = parsed.where("training", *key)
        raise InvalidDocument(list(refused.values()))
    try:
        return resolve_plan(written, facts["recipe"], base, Machine(**facts["machine"]))
    except HardwareError as error:
        error.where = read().where(*(("training", *error.field.split(".")) if error.field else ("base_model",)))
        raise


def _origins(
    plan: Mapping[str, Any],
    values: Mapping[str, Any],
    keys: Set[Any],
    recipe: Mapping[str, Any],
    lock: Mapping[str, Any],
) -> dict[str, str]:
    """`values` are those of the document's `training`, defaults among them; `keys` the keys that are really written."""
    found = {}
    for name in plan:
        if name in keys and values[name] not in ("auto", None):
            found[name] = "document"
        elif name in recipe and name in values:
            found[name] = "lock" if name in lock.get("recipe", {}) else "recipe"
        elif name in ("device", "threads", "precision", "world_size"):
            found[name] = "lock" if "hardware" in lock else "machine"
        else:
            found[name] = "base" if name == "target_modules" else "default"
    return found


def largest(trained: Trained, project: Project, plan: Mapping[str, Any]) -> Load:
    """What a training by `plan` computes at once at its peak.

    With the rows of the last build and the retention set that is there, or else the longest that there may be.
    """
    from dlmbuild.data.rows import Row
    from dlmbuild.data.shards import read_rows
    from dlmbuild.train.packing import largest_load
    from dlmbuild.train.retention import likely_rows

    longest, known = longest_row(trained, plan)
    if "preference" in plan or "method" in plan:  # a better answer and a worse one, each filled up to the longest
        return Load(2 * plan["micro_batch_size"], longest, 0, masks=True)
    rows: Iterable[Row] = (
        (replace(row, ids=row.ids[:longest]) for row in read_rows(trained.store.dataset))
        if known
        else (Row("prose", (-at - 1, *range(1, longest)), 0) for at in range(plan["micro_batch_size"]))
    )
    texts = likely_rows(project.base_folder(trained.document.base).retention) if plan["retention"] else []
    return largest_load(rows, texts, plan)


def longest_row(trained: Trained, plan: Mapping[str, Any]) -> tuple[int, bool]:
    """Tokens of the longest row, and whether that is known: without a dataset it is as long as a row may be."""
    try:
        dataset = read_json(trained.store.dataset)
        return min(int(dataset["counts"]["longest_row"]), plan["sequence_len"]), True
    except (OSError, ValueError, KeyError, TypeError):
        return plan["sequence_len"], False


def known_vocabulary(trained: Trained) -> dict[str, Any] | None:
    """What the base's tokenizer makes of an adapter's words (data/vocabulary.py); None while there is no dataset."""
    try:
        return dict(read_json(trained.store.dataset)["vocabulary"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def known_gate(document: Document) -> dict[str, Any] | None:
    """What a document's gate says of itself (train/gate.py); None while there is none."""
    try:
        return read_json(document.store.gate / "gate_config.json")
    except (OSError, ValueError):
        return None


def memory(trained: Trained, project: Project, plan: Mapping[str, Any]) -> Estimate | None:
    """What a training by `plan` takes at its peak; None for a base whose shape its configuration does not tell."""
    base = project.base_folder(trained.document.base)
    try:
        shape = Shape.of_config(read_json(checkpoint(base) / "config.json"))
    except (OSError, ValueError):
        return None
    if shape is None:
        return None
    return estimate(
        shape, Setup.of_plan(plan, largest(trained, project, plan)), int(read_json(base.facts)["parameters"])
    )


def require_memory(trained: Trained, project: Project, plan: Mapping[str, Any]) -> str:
    """A warning where a training by `plan` may not find room now, "" where it does.

    Raises HardwareError where the whole machine has less than it takes. What is free never decides: a result must not
    depend on what else runs.
    """
    from dlmbuild.hardware.detect import free_memory, this_machine
    from dlmbuild.hardware.fit import FULL, smaller

    found = memory(trained, project, plan)
    machine = this_machine()
    if found is None or machine.device == "cuda":  # what a GPU holds is only known to its driver
        return ""
    longest, _ = longest_row(trained, plan)
    processes = plan["world_size"]
    total = found.total * processes
    if total > machine.memory_bytes:
        room = machine.memory_bytes // processes
        change = smaller(plan, lambda other: memory(trained, project, other) or found, room, longest)
        raise HardwareError(
            f"this training takes about {gib(total)}, and the machine has {gib(machine.memory_bytes)}",
            why="it would be killed, or swap for days",
            do=f"write under training: {change}" if change else "take a smaller base, or train on a larger machine",
        )
    free = free_memory()
    if not free or total <= FULL * free:
        return ""
    return f"this takes about {gib(total)}, and {gib(free)} are free: dlm doctor {_asked(trained)} says more"


def _asked(trained: Trained) -> str:
    return f"{trained.document.name} --adapter {trained.name}" if trained.name else trained.document.name


def gib(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
