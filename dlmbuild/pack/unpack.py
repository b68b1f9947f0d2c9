"""Bringing a pack in: first all of it is read and checked, then objects, records and the document appear."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import tomli_w

from dlmbuild.doc.document import parse_bytes
from dlmbuild.doc.header import read_header
from dlmbuild.errors import DlmError, PackError, Where
from dlmbuild.io.atomic import STAGING_SUFFIX, free_name, staging_folder, write_atomic
from dlmbuild.io.digest import readable_json
from dlmbuild.io.statcache import StatCache
from dlmbuild.lock.lockfile import Lock, training_lock, write_store_lock
from dlmbuild.pack.format import Header, read_pack
from dlmbuild.store.exclusive import exclusive
from dlmbuild.store.layout import Home
from dlmbuild.store.objects import Objects
from dlmbuild.store.records import Record, Records


@dataclass(frozen=True, slots=True)
class Unpacked:
    """What was found in a pack, and what was done with it."""

    header: Header
    base: str
    """What the document is trained on, as it writes it."""
    document: Path
    kept: Path | None
    """Where an older document of this name lies now."""


def check_pack(path: Path, home: Home) -> tuple[Header, str]:
    """Read and check a pack, and write nothing; returns its header and the base of its document."""
    header, small = read_pack(path, None, home)
    return header, _base_of(header, small[header.document], path)


def unpack(path: Path, folder: Path, home: Home, *, force: bool = False) -> Unpacked:
    """Bring a pack into the project `folder` and into the home.

    A document that differs from the pack's is only replaced with `force`, and kept beside it. Raises PackError.
    """
    home.root.mkdir(parents=True, exist_ok=True)
    with exclusive(home.root / ".lock", "dlm unpack", print), staging_folder(home.root) as scratch:
        header, small = read_pack(path, scratch, home)
        text = small[header.document]
        base = _base_of(header, text, path)
        goal = folder / f"{header.name}.dlm"
        _make_room(header, goal, text, path, force=force)  # refused before anything is made
        store = home.store(header.dlm_id)
        with exclusive(store.lock_file, "dlm unpack", print):
            kept = _make_room(header, goal, text, path, force=force)  # after the wait it may look different
            objects = Objects(home.objects, StatCache(home.stat_cache))
            records = Records(store.imported)
            for record in header.records:
                for digest in record.outputs.values():
                    if (scratch / digest).exists():
                        objects.put(scratch / digest)
                    elif not objects.has(digest):
                        raise PackError("what was unpacked is gone again", where=Where(str(path)), do="unpack it again")
                records.save(record)
            if header.records and not store.dlm_lock.exists():
                write_store_lock(store.dlm_lock, _lock(header.records[-1], path))
            for left in folder.glob(f".{escape(goal.name)}.*{STAGING_SUFFIX}"):  # by an unpacking that was killed
                left.unlink(missing_ok=True)
            if kept:
                goal.rename(kept)
            write_atomic(goal, text)
    return Unpacked(header, base, goal, kept)


def _base_of(header: Header, text: bytes, path: Path) -> str:
    """What the document in a pack is trained on. Raises PackError where it is not what the header says."""
    try:
        document = parse_bytes(text, f"{header.name}.dlm")
    except DlmError as error:
        raise PackError(f"the document in the pack has mistakes: {error}", where=Where(str(path))) from None
    if document.frontmatter.dlm_id != header.dlm_id:
        raise PackError(
            "the document in the pack is another one than its header says",
            where=Where(str(path)),
            why=f"its id is {document.frontmatter.dlm_id}, the header's {header.dlm_id}",
        )
    for record in header.records:
        _lock(record, path)
    return document.frontmatter.base_model


def _lock(record: Record, path: Path) -> Lock:
    """What the training ran under, which decides how `auto` is resolved. The licence is accepted again here."""
    params, notes = record.ingredients.params, record.notes
    base: Any = params.get("base")
    plan: Any = params.get("plan")
    try:
        lock = training_lock(base, plan, notes, None)
        # Whatever could not be written later on is found now, before anything is.
        tomli_w.dumps(lock).encode()
        readable_json([record.ingredients.key, dict(params), dict(notes)])
        return lock
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        why = f"{type(error).__name__}: {error}"
        raise PackError("a record in the pack cannot be understood", where=Where(str(path)), why=why) from None


def _make_room(header: Header, goal: Path, text: bytes, path: Path, *, force: bool) -> Path | None:
    """Where a differing document is to go, if there is one. Raises PackError where nothing may be written."""
    for other in sorted(goal.parent.glob("*.dlm")):
        if other != goal and _id_of(other) == header.dlm_id:
            raise PackError(
                f"{other.name} is the same document under another name",
                where=Where(str(path)),
                why="two documents of one project cannot have one dlm_id",
                do=f"mv {other.name} {goal.name}, then unpack again",
            )
    if not goal.exists() and not goal.is_symlink():
        return None
    if goal.is_file() and goal.read_bytes() == text:
        return None
    if not force or goal.is_symlink() or not goal.is_file():
        raise PackError(
            f"{goal.name} is here already, and differs from the one in the pack",
            where=Where(str(path)),
            why="nothing is overwritten unasked",
            do=f"dlm unpack --force {shlex.quote(str(path))} keeps the one that is here beside it; "
            "move a link or a folder away yourself",
        )
    return free_name(goal, "before")


def _id_of(document: Path) -> str:
    try:
        return read_header(document.read_bytes(), document.name).dlm_id
    except (DlmError, OSError):
        return ""
