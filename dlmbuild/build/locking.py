"""The lock of a document as the graph uses it: which one governs, what it fixes, and whether it is kept."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dlmbuild.base_models.registry import ONCE_UNKNOWN
from dlmbuild.build.project import Document, Project
from dlmbuild.build.reading import base_identity
from dlmbuild.errors import LockError, Where
from dlmbuild.hardware.detect import this_machine
from dlmbuild.lock.lockfile import Lock, read_project_lock, read_store_lock


def governing_lock(document: Document, project: Project) -> Lock | None:
    """The project's lock if it has one for this document, else that of the last training; None if none is to count."""
    if project.lock_mode == "ignore":
        return None
    held = _held(document, project)
    return held if held is not None else read_store_lock(document.store.dlm_lock)


def _held(document: Document, project: Project) -> Lock | None:
    """What the project holds everybody to for this document."""
    return read_project_lock(project.lock_path).get(document.dlm_id)


def planning_facts(document: Document, project: Project) -> dict[str, Any]:
    """Machine and recipe that `auto` values come from: the locked ones, so that no probe changes a plan later on."""
    lock: Lock = {} if project.lock_mode == "update" else governing_lock(document, project) or {}
    here, recipe = asdict(this_machine()), asdict(document.base.recipe)
    machine = _of_lock("hardware", lock, here, document, project)
    # A recipe is for one base: another base of the document has one of its own.
    same_base = lock.get("base", {}).get("name") == base_identity(project.base_folder(document.base))["name"]
    if same_base and (locked := _of_lock("recipe", lock, recipe, document, project)):
        recipe |= {**ONCE_UNKNOWN, **locked}
    return {"machine": machine if machine.keys() == here.keys() else here, "recipe": recipe}


def _of_lock(table: str, lock: Lock, like: Mapping[str, Any], document: Document, project: Project) -> dict[str, Any]:
    """What a table of the lock says that `like` says as well. Raises LockError for a value of another type."""
    found = {name: value for name, value in lock.get(table, {}).items() if name in like}
    for name, value in found.items():
        kind = type(like[name])
        if type(value) is not kind and (type(value), kind) != (int, float):
            held = _held(document, project) is not None
            path = project.lock_path if held else document.store.dlm_lock
            raise LockError(
                f"{table}.{name} is {value!r}",
                where=Where(str(path)),
                why=f"it must be of the type {kind.__name__}, as a training writes it",
                do="write it anew with: dlm lock" if held else f"do without it, with: rm {shlex.quote(str(path))}",
            )
    return found


def keep_to_lock(
    document: Document, project: Project, *, base: Mapping[str, Any], training: bool, retention: str = ""
) -> list[str]:
    """Hold the present to the governing lock: warnings in words, or LockError.

    The base's identity is always compared; with `training` also the packages, the hardware tier and the flags, and the
    digest of the `retention` set if there is one.
    """
    from dlmbuild.hardware.doctor import determinism_here
    from dlmbuild.lock.capture import TRAINING_PINS, pins
    from dlmbuild.lock.severity import compare, decide

    lock = governing_lock(document, project)
    if lock is None:
        return []
    more: dict[str, Any] = {}
    if training:
        machine = this_machine()
        exactness = determinism_here(project.archive.home, machine)
        more = {"pins": pins(TRAINING_PINS), "tier": machine.tier, "determinism": exactness, "retention": retention}
    mismatches = list(compare(lock, base, **more))
    if not mismatches:
        return []
    accept = f"dlm --update-lock train:{document.name}"
    if _held(document, project) is not None:  # a training writes the store's lock only
        accept += " && dlm lock"
    return decide(mismatches, project.lock_mode, accept)
