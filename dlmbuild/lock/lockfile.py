"""dlm.lock: what a training ran under, in TOML for people to read, compare and commit.

Whoever wants the same adapter bytes needs the same document, base, plan, tier, pins and flags; they all stand here. A
store's dlm.lock tells of its last training. A dlm.lock in the project's folder, written by `dlm lock` and committed,
has one table for each document and holds everybody to it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlmbuild.errors import LockError, Where
from dlmbuild.io.atomic import write_atomic

LOCK_VERSION = 1
_ANEW = "take it from version control, or write it anew with: dlm lock"

Lock = Mapping[str, Any]
"""The lock of one document: base, retention, pins, hardware, determinism, recipe, plan, license."""


def training_lock(
    base: Mapping[str, Any], plan: Mapping[str, Any], notes: Mapping[str, Any], license: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The lock that a training's record stands for; `base` is the base's identity, `notes` are the record's."""
    retention = notes.get("retention")  # the digest of what the base says by itself, if the training was held to that
    return {
        "base": _sorted({name: base[name] for name in ("name", "revision", "source", "files")}),
        **({"retention": {"sha256": retention}} if retention else {}),
        "pins": _sorted(notes["pins"]),
        "hardware": _sorted(notes["machine"]),
        "determinism": _sorted(notes["determinism"]),
        "recipe": _sorted(notes["recipe"]),
        "plan": _sorted(plan),
        "license": _sorted(license or {}),
    }


def write_store_lock(path: Path, lock: Lock) -> None:
    """Write a store's lock in one step."""
    _write(path, "What the last training of this document ran under. Written by `doit train`.", dict(lock))


def read_store_lock(path: Path) -> Lock | None:
    """A store's lock; None where there is none, or none that can be read: it only tells of the past."""
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    tables = {name: table for name, table in data.items() if name != "lock_version"}
    return data if data.get("lock_version") == LOCK_VERSION and _is_lock(tables) else None


def write_project_lock(path: Path, locks: Mapping[str, Lock]) -> None:
    """Write the project's lock in one step; `locks` by document id."""
    _write(path, "What this project is built under. Written by `dlm lock`; commit it.", {"documents": dict(locks)})


def read_project_lock(path: Path) -> dict[str, Lock]:
    """The project's lock by document id; empty where there is no file. Raises LockError for a damaged one."""

    def wrong(what: str, why: str = "", do: str = _ANEW) -> LockError:
        return LockError(what, where=Where(str(path)), why=why, do=do)

    try:
        data = tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        return {}
    except IsADirectoryError:
        do = f"mv {path.name} {path.name}.old && dlm lock"
        raise wrong("a folder lies where the lock belongs", do=do) from None
    except (OSError, ValueError, RecursionError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise wrong("the lock cannot be read", why) from None
    version, documents = data.get("lock_version"), data.get("documents")
    if not data:
        raise wrong("the lock is empty", "it says what a build is held to")
    if type(version) is not int:
        raise wrong("the lock is damaged", "it says no lock_version")
    if version != LOCK_VERSION:
        do = "update dlmbuild, or write the lock anew with: dlm lock"
        raise wrong(f"the lock has version {version}, this program reads {LOCK_VERSION}", do=do)
    if not isinstance(documents, dict):
        raise wrong("the lock is damaged", "it has no table of documents")
    if not all(map(_is_lock, documents.values())):
        raise wrong("the lock was changed by hand and says nothing that can be compared")
    return documents


def _is_lock(value: Any) -> bool:
    if not isinstance(value, dict) or not all(isinstance(table, dict) for table in value.values()):
        return False
    named = (value.get("base", {}).get("files", {}), value.get("pins", {}))
    return all(isinstance(table, dict) and all(isinstance(text, str) for text in table.values()) for table in named)


def _write(path: Path, comment: str, data: dict[str, Any]) -> None:
    import tomli_w

    write_atomic(path, f"# {comment}\n\n{tomli_w.dumps({'lock_version': LOCK_VERSION, **data})}".encode())


def _sorted(table: Mapping[str, Any]) -> dict[str, Any]:
    # TOML has no null: what is not set is left out.
    return {
        name: _sorted(value) if isinstance(value, Mapping) else value
        for name, value in sorted(table.items())
        if value is not None
    }
