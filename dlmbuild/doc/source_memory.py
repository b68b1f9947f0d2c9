"""What was found in a tree of sources the last time: which names count, and the digest of each file under its stat.

Only a shortcut: without it, or with a damaged one, everything is read again. Racy rule as in io/statcache.py: what was
written in the instant in which it was read is not remembered.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from dlmbuild.io.atomic import STAGING_SUFFIX
from dlmbuild.io.digest import sha256_bytes

_GRANULARITY_NS = 20_000_000


class Folder(NamedTuple):
    """What is known of a folder."""

    rules: str
    """Those by which its names were judged."""
    own: str
    """Its signature, if its names alone say what counts: it has no configuration and no link. Else empty."""
    names: dict[str, str]
    """Of what is no source: why not. Folders, whose names end in /, are here too; "" for one that counts."""
    files: list[str]
    """The others,"""
    results: list[str]
    """the digest of the content of each, or why it does not count,"""
    stats: str
    """and their signatures with / between them; without a signature a result is not to be relied on."""
    looks: int
    """What `looks_of` said of the files; 0 where it does not say enough."""

    def digests(self) -> dict[str, tuple[str, str]]:
        """Name of a file → signature and result."""
        return dict(zip(self.files, zip(self.stats.split("/"), self.results, strict=True), strict=False))


class Memory:
    """The memory of one source of the document at the path `owner`, in the file `path`; with None it is in no file.

    The file is a journal: lines of folders, each with its own digest, of which later ones replace earlier ones.
    """

    def __init__(self, path: Path | None, owner: str = "") -> None:
        self._path = path
        self._owner = owner
        self._folders: dict[str, Any] = {}
        self._configs: dict[str, Any] = {}
        self._changed: set[str] = set()
        self._size = 0
        self._whole = 0
        """Bytes of the journal, and of its first line."""
        if path is not None:
            self._load(path)

    def _load(self, path: Path) -> None:
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError):
            for line in path.read_bytes().splitlines(keepends=True):
                digest, _, body = line.partition(b" ")
                if digest.decode() != sha256_bytes(body):
                    self._size = 0  # whatever follows a damaged line is written anew
                    return
                data = json.loads(body)
                self._folders.update(data["known"])
                self._configs.update(data["configs"])
                self._size += len(line)
                self._whole = self._whole or len(line)

    def folder(self, path: str) -> Folder | None:
        packed = self._folders.get(path)
        if packed is None:
            return None
        rules, own, names, files, results, stats, looks = packed
        files, results = (files.split("/"), results.split("/")) if files else ([], [])
        return Folder(rules, own, names, files, results, stats, looks)

    def note_folder(self, path: str, known: Folder) -> None:
        # Three texts are read from a file ten times as fast as lists of numbers.
        packed = [*known[:3], "/".join(known.files), "/".join(known.results), known.stats, known.looks]
        if self._folders.get(path) != packed:
            self._folders[path] = packed
            self._changed.add(path)

    def config(self, folder: str) -> Any:
        """[stats, digest, data] of a folder's configuration, or None."""
        return self._configs.get(folder)

    def note_config(self, folder: str, value: Any) -> None:
        self._configs[folder] = value
        self._changed.add(folder)

    def save(self, folders: set[str]) -> None:
        """Write down what changed; `folders` are those that are there."""
        for folder in self._folders.keys() - folders:
            del self._folders[folder]
            self._configs.pop(folder, None)
            self._size = 0
        if self._path is None or (not self._changed and self._size):
            return
        with contextlib.suppress(OSError):
            if 0 < self._size < 2 * self._whole and len(self._changed) < len(self._folders):
                line = self._line(self._changed)
                with self._path.open("ab") as file:
                    file.write(line)
            else:
                line = self._line(self._folders.keys())
                self._whole = self._size = 0
                self._path.parent.mkdir(parents=True, exist_ok=True)
                temporary = self._path.with_name(f".{self._path.name}.{os.urandom(6).hex()}{STAGING_SUFFIX}")
                temporary.write_bytes(line)  # not flushed to the disk: a line that is lost or cut off is no line
                temporary.replace(self._path)
            self._size += len(line)
            self._whole = self._whole or len(line)
        self._changed.clear()

    def _line(self, folders: Iterable[str]) -> bytes:
        rows = {folder: self._folders[folder] for folder in folders if folder in self._folders}
        configs = {folder: self._configs[folder] for folder in folders if folder in self._configs}
        data = {"document": self._owner, "known": rows, "configs": configs}
        body = json.dumps(data, separators=(",", ":")).encode() + b"\n"
        return f"{sha256_bytes(body)} ".encode() + body


def owner_of(path: Path) -> str:
    """The document that a file of memory belongs to; "" for one that says nothing of it, which nobody can use."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError), path.open("rb") as file:
        return str(json.loads(file.readline().partition(b" ")[2])["document"])
    return ""


def signature(*found: os.stat_result) -> str:
    """What changes when a file's content does, or the names in a folder; with / between those of several."""
    return "/".join([f"{one.st_ino} {one.st_size} {one.st_mtime_ns} {one.st_ctime_ns}" for one in found])


def looks_of(found: Iterable[os.stat_result]) -> int:
    """One number for the signatures of some files, much faster; hashes of integers are the same in every process."""
    return hash(tuple([(one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in found]))


def settled(found: os.stat_result) -> bool:
    """Whether the times of a file or folder are clearly in the past: a later change would show in them."""
    return max(found.st_mtime_ns, found.st_ctime_ns) + _GRANULARITY_NS < time.time_ns()
