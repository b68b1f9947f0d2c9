"""Write dlm.lock: hold everybody who builds this project to what the documents here were last trained under."""

from __future__ import annotations

import argparse
from pathlib import Path

from dlmbuild.errors import StoreError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the lock would change")


def run(arguments: argparse.Namespace) -> int:
    from dlmbuild.build.differences import differences
    from dlmbuild.build.project import project_of
    from dlmbuild.lock.lockfile import read_project_lock, read_store_lock, write_project_lock

    project = project_of(Path.cwd())
    old = read_project_lock(project.lock_path)
    new = {}
    for document in project.documents:
        lock = read_store_lock(document.store.dlm_lock)
        if lock is None:
            raise StoreError(f"{document.name} has not been trained here yet", do="doit train")
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
