"""Write dlm.lock: hold everybody who builds this project to what the documents here were last trained under."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dlmbuild.cli.words import tell_of_broken
from dlmbuild.errors import LockError, StoreError, UsageError, Where

if TYPE_CHECKING:
    from dlmbuild.build.project import Document, Project
    from dlmbuild.lock.lockfile import Lock


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the lock would change")


def run(arguments: argparse.Namespace) -> int:
    from dlmbuild.build.differences import differences
    from dlmbuild.build.project import project_of
    from dlmbuild.lock.lockfile import read_project_lock, write_project_lock

    project = project_of(Path.cwd())
    tell_of_broken(project)
    if not project.documents:
        raise UsageError("there is no document here whose training could be locked", do="dlm check")
    old: dict[str, Lock] = {}
    damaged = False
    try:
        old = read_project_lock(project.lock_path)
    except LockError as error:
        if arguments.check or project.lock_path.is_dir():
            raise
        damaged = True
        print(f"{error.where}: {error.what}; it is written anew", file=sys.stderr)
    # The id of a broken document is not known: what is locked for ids that nobody else has may be its lock.
    new = dict(old) if project.broken else {}
    for document in project.documents:
        lock = _last_training(document, project, damaged)
        new[document.dlm_id] = {name: table for name, table in lock.items() if name != "lock_version"}
    changes = list(differences(old, new))
    for line in changes:
        print(line)
    if not changes:
        print("dlm.lock is as it should be")
    elif not arguments.check:
        write_project_lock(project.lock_path, new)
        print(f"{project.lock_path.name} is written; commit it")
    return 1 if changes and arguments.check else 0


def _last_training(document: Document, project: Project, damaged: bool) -> Lock:
    """What the document was last trained under: from the store's lock, or else from the training's record.

    Nothing is trained under a `damaged` lock of the project.
    """
    from dlmbuild.build.trained import adapters
    from dlmbuild.lock.lockfile import read_store_lock
    from dlmbuild.rules.train import note_run

    store = document.store
    lock = read_store_lock(store.dlm_lock)
    if lock is not None:
        return lock
    trained = list(adapters([document]))[-1]
    step = "prefer" if trained.prefers else "train"
    record = project.archive.last(store.root, trained.slot(step))
    if record is None:
        ignoring = "lock=ignore " if damaged else ""
        raise StoreError(f"{document.name} has not been trained here yet", do=f"doit {ignoring}{step}:{trained.title}")
    project.lock_mode = ""  # a build that was to ignore the lock has written none; now it is asked for
    try:
        note_run(trained, project, record, False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        path = shlex.quote(str(store.dlm_lock))
        raise StoreError(
            "the lock of the last training cannot be written",
            where=Where(str(store.dlm_lock)),
            why=f"{type(error).__name__}: {error}",
            do=(f"mv {path} {path}.old" if store.dlm_lock.is_dir() else f"doit base:{document.base.key}")
            + " && dlm lock",
        ) from None
    lock = read_store_lock(store.dlm_lock)
    if lock is None:
        raise AssertionError("a lock that was just written cannot be read")
    return lock
