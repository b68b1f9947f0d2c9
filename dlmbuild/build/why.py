"""What a build would do and why, without building: the dry run.

Light steps (check, plan, dataset) are worked out in a scratch folder, so that their early cutoff is known, not guessed.
What heavy steps would make cannot be known: whatever is made from that *may* have to follow.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlmbuild.build.checker import is_ours
from dlmbuild.build.differences import differences
from dlmbuild.build.reading import pretending
from dlmbuild.build.selection import in_order
from dlmbuild.build.step import Step, Workplace
from dlmbuild.errors import DlmError
from dlmbuild.io.progress import silent
from dlmbuild.io.text import unreadable
from dlmbuild.store.outputs import Folder
from dlmbuild.store.records import Ingredients, Record


@dataclass(frozen=True, slots=True)
class Finding:
    """What would happen to one task."""

    task: str
    verdict: str
    """`run`, `maybe` (it follows something whose result is not known yet), `restore`, `ok`, or `fail`."""
    causes: list[str] = field(default_factory=list)


def why(tasks: Mapping[str, Any], selected: Sequence[str]) -> list[Finding]:
    """A finding for each task with work that `selected` needs, in the order in which doit would come to them."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        instead = stack.enter_context(pretending())
        unknown: dict[Path, str] = {}
        return [
            _find(tasks[name], scratch / str(number), instead, unknown)
            for number, name in enumerate(in_order(tasks, selected))
        ]


def steps_of(tasks: Mapping[str, Any], selected: Sequence[str]) -> list[Step] | None:
    """The steps that `selected` needs; None if it needs a task that is no step as well."""
    steps = [(tasks[name].meta or {}).get("step") for name in in_order(tasks, selected)]
    found = [step for step in steps if step is not None]
    return found if len(found) == len(steps) else None


def _find(task: Any, scratch: Path, instead: dict[Path, Path], unknown: dict[Path, str]) -> Finding:
    step: Step | None = (task.meta or {}).get("step")
    if step is None:
        if not is_ours(task.name):
            return Finding(task.name, "maybe", ["a task of your own, which doit decides about"])
        return Finding(task.name, "fail", [task.doc])
    for path in (*step.inputs.values(), *step.reads):
        if path in unknown:
            unknown.update(dict.fromkeys(step.outputs.targets.values(), step.name))
            return Finding(step.name, "maybe", [f"follows {unknown[path]}"])
    try:
        state = step.state()
        now, record, absent, mismatch, noted = state
        if state.is_fine:
            return Finding(step.name, "ok")
        if record is None or not all(map(step.archive.objects.has, record.outputs.values())):
            return _would_run(step, now, record, scratch, instead, unknown)
        if absent:
            return Finding(step.name, "run", [absent])
        if mismatch:
            instead.update(_restored(step, record, scratch))
        if not noted:
            mismatch = "it is made from what an earlier build was made from, whose result is kept"
        return Finding(step.name, "restore", [mismatch])
    except (DlmError, OSError) as error:
        unknown.update(dict.fromkeys(step.outputs.targets.values(), step.name))
        told = unreadable(Path(error.filename), error) if isinstance(error, OSError) and error.filename else error
        return Finding(step.name, "fail", [str(told)])


def _restored(step: Step, record: Record, scratch: Path) -> Iterator[tuple[Path, Path]]:
    """Where what a step would bring back can be read meanwhile: what it leaves in each place, and the files beside."""
    kept = {name: step.archive.objects.path(digest) for name, digest in record.outputs.items()}
    for name, target in step.outputs.targets.items():
        yield target, kept.pop(name)
    if isinstance(step.outputs, Folder):
        scratch.mkdir()
        for name, path in kept.items():
            (scratch / name).symlink_to(path)
        yield step.outputs.folder(step.archive.objects.path(record.outputs[step.outputs.index_file.name])), scratch


def _would_run(
    step: Step,
    now: Ingredients,
    record: Record | None,
    scratch: Path,
    instead: dict[Path, Path],
    unknown: dict[Path, str],
) -> Finding:
    last = step.archive.last(step.store.root, step.slot)
    if record is not None:
        causes = ["what it made is damaged, and so is the copy of it"]
    elif last is None:
        causes = ["no earlier build of it is known"]
    else:
        causes = list(_changes(step, last.ingredients, now))
    if not step.light:
        unknown.update(dict.fromkeys(step.outputs.targets.values(), step.name))
        return Finding(step.name, "run", causes)
    scratch.mkdir()
    step.work(Workplace(scratch, now.params, silent, scratch, now.key, scratch))
    for name, target in step.outputs.targets.items():
        made = scratch / name
        if last is not None:
            causes += _content_changes(step, last, made)
        instead[target] = made
    return Finding(step.name, "run", causes)


def _changes(step: Step, old: Ingredients, new: Ingredients) -> Iterator[str]:
    if old.rule != new.rule:
        yield f"dlmbuild does this step in a new way ({old.rule} → {new.rule})"
    for role in sorted(old.inputs.keys() | new.inputs.keys()):
        if old.inputs.get(role) != new.inputs.get(role):
            if role in step.inputs:
                yield f"{step.inputs[role].name} changed"
            elif role in new.inputs:
                yield f"{role} {'changed' if role in old.inputs else 'is new'}"
            else:
                yield f"{role} is no longer used"
    yield from differences(dict(old.params), dict(new.params))


def _content_changes(step: Step, last: Record, made: Path) -> list[str]:
    """How the JSON that a light step would make differs from what it made the last time."""
    before = step.archive.objects.path(last.outputs.get(made.name, "0" * 64))
    if made.suffix != ".json" or not before.exists():
        return []
    places = step.places()
    found = [
        re.sub(r"^(sections\[\d+\]|sources\[\d+\]\.files\.)", lambda part: places.get(part[0], part[0]), line)
        for line in differences(json.loads(before.read_bytes()), json.loads(made.read_bytes()))
    ]
    return found or ["what it says is the same: nothing follows"]
