"""What follows when the world is not what dlm.lock says, field by field.

refuse   the base's revision or files, the major version of torch: the result could not be the same model
warn     other versions of what trains, another hardware tier, other determinism flags: a built adapter stays valid, the
         next training runs under what is here and records it; the same for another retention set, and for another base
         of this disk, which is named by its content: the document may mean it, or it was changed in its place
         (pins that only exports use are part of an export's key: they rebuild it. The document may always change.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlmbuild.errors import LockError
from dlmbuild.lock import Mode
from dlmbuild.lock.lockfile import Lock


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One field of the lock that is not so."""

    field: str
    locked: str
    here: str
    refuses: bool

    def __str__(self) -> str:
        return f"{self.field} is {self.here or 'not here'}, locked is {self.locked or 'none'}"


def compare(
    lock: Lock,
    base: Mapping[str, Any],
    *,
    pins: Mapping[str, str] | None = None,
    tier: str = "",
    determinism: Mapping[str, Any] | None = None,
    retention: str = "",
) -> Iterator[Mismatch]:
    """The mismatches between a lock and what is given of the present."""
    locked = lock.get("base", {})
    same = locked.get("name") == base["name"]  # a document may always name another base
    if same or all(_is_local(one) for one in (locked, base)):
        yield from _differ("base.revision", locked.get("revision"), base["revision"], refuses=same)
    if same:
        files: Mapping[str, str] = locked.get("files", {})
        for name in sorted(files.keys() | base["files"].keys()):
            yield from _differ(f"base.files.{name}", files.get(name), base["files"].get(name), refuses=True)
    if pins is not None:
        locked = lock.get("pins", {})
        for name in sorted(locked.keys() | pins.keys()):
            majors = [str(p.get(name, "")).partition(".")[0] for p in (locked, pins)]
            major = name == "torch" and majors[0] != majors[1]
            yield from _differ(f"pins.{name}", locked.get(name), pins.get(name), refuses=major)
    if tier:
        yield from _differ("hardware.tier", lock.get("hardware", {}).get("tier"), tier)
    if retention and (known := lock.get("retention", {}).get("sha256")):  # older locks do not say
        yield from _differ("retention.sha256", known, retention)
    for name, value in sorted((determinism or {}).items()):
        yield from _differ(f"determinism.{name}", lock.get("determinism", {}).get(name), value)


def _is_local(base: Mapping[str, Any]) -> bool:
    return base.get("source") in ("folder", "gguf")


def decide(mismatches: Sequence[Mismatch], mode: Mode, accept: str) -> list[str]:
    """Raise LockError if a mismatch refuses in this mode; otherwise the warnings, in words.

    `accept` is the command that takes what is here instead.
    """
    if mode in ("update", "ignore"):
        return []
    refusing = [m for m in mismatches if m.refuses or mode == "strict"]
    if refusing:
        raise LockError(
            "this is not what dlm.lock holds the build to: " + "; ".join(map(str, refusing)),
            why="the result would be another model than the one that the lock stands for",
            do=f"install what is locked, or accept what is here with: {accept}",
        )
    return [f"{mismatch} (see dlm.lock)" for mismatch in mismatches]


def _differ(field: str, locked: Any, here: Any, *, refuses: bool = False) -> Iterator[Mismatch]:
    if locked != here:
        yield Mismatch(field, "" if locked is None else str(locked), "" if here is None else str(here), refuses)
