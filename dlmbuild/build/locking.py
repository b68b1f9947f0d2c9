"""The lock of a document as the graph uses it: which one governs, what it fixes, and whether it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from dlmbuild.build.project import Document, Project
from dlmbuild.build.reading import base_identity
from dlmbuild.hardware.detect import this_machine
from dlmbuild.lock.lockfile import Lock, read_project_lock, read_store_lock


def governing_lock(document: Document, project: Project) -> Lock | None:
    """The project's lock if it has one for this document, else that of the last training; None if none is to count."""
    if project.lock_mode == "ignore":
        return None
    held = read_project_lock(project.lock_path).get(document.dlm_id)
    return held if held is not None else read_store_lock(document.store.dlm_lock)


def planning_facts(document: Document, project: Project) -> dict[str, Any]:
    """Machine and recipe that `auto` values come from: the locked ones, so that no probe changes a plan later on."""
    lock: Lock = {} if project.lock_mode == "update" else governing_lock(document, project) or {}
    here = asdict(this_machine())
    machine = {name: value for name, value in lock.get("hardware", {}).items() if name in here}
    # A recipe is for one base: another base of the document has one of its own.
    same_base = lock.get("base", {}).get("name") == base_identity(project.base_folder(document.base))["name"]
    return {
        "machine": machine if machine.keys() == here.keys() else here,
        "recipe": {**asdict(document.base.recipe), **(lock.get("recipe", {}) if same_base else {})},
    }


def keep_to_lock(document: Document, project: Project, *, base: Mapping[str, Any], training: bool) -> list[str]:
    """Hold the present to the governing lock: warnings in words, or LockError.

    The base's identity is always compared; with `training` also the packages, the hardware tier and the flags.
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
        more = {"pins": pins(TRAINING_PINS), "tier": machine.tier, "determinism": exactness}
    return decide(list(compare(lock, base=base, **more)), project.lock_mode)
