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
from typing import Any

from dlmbuild.io.atomic import STAGING_SUFFIX
from dlmbuild.io.digest import sha256_bytes

_GRANULARITY_NS = 20_000_000

Stat = list[int]
Names = dict[str, Any]
"""Name in a folder → what is known of it.

    a text            why it does not count; "" for a folder that does, whose name ends in /
    []                a file that counts by its name
    [*stat, result]   its stat, and the digest of its content or why it does not count
"""


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
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):
            for line in path.read_bytes().splitlines(keepends=True):
                digest, _, body = line.partition(b" ")
                if digest.decode() != sha256_bytes(body):
                    self._size = 0  # whatever follows a damaged line is written anew
                    return
                data = json.loads(body)
                self._folders.update(data["folders"])
                self._configs.update(data["configs"])
                self._size += len(line)
                self._whole = self._whole or len(line)

    def names(self, folder: str, rules: str) -> Names:
        """What is known of a folder under these rules; under other rules nothing but the digests of files."""
        known = self._folders.get(folder)
        return known[1] if known and known[0] == rules else {}

    def digests(self, folder: str) -> Names:
        """Name → [*stat, result] of a folder's files, whatever the rules were."""
        known = self._folders.get(folder)
        return {name: value for name, value in known[1].items() if type(value) is list and value} if known else {}

    def note_names(self, folder: str, rules: str, names: Names) -> None:
        old = self._folders.get(folder)
        if old is None or old[0] != rules or old[1] != names:
            self._folders[folder] = [rules, names]
            self._changed.add(folder)

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
        data = {"document": self._owner, "folders": rows, "configs": configs}
        body = json.dumps(data, separators=(",", ":")).encode() + b"\n"
        return f"{sha256_bytes(body)} ".encode() + body


def owner_of(path: Path) -> str:
    """The document that a file of memory belongs to; "" for one that says nothing of it, which nobody can use."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, RecursionError), path.open("rb") as file:
        return str(json.loads(file.readline().partition(b" ")[2])["document"])
    return ""


def signature(found: os.stat_result) -> Stat:
    """What changes when a file's content does."""
    return [found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def settled(found: os.stat_result) -> bool:
    """Whether the file's times are clearly in the past: a later change would show in them."""
    return max(found.st_mtime_ns, found.st_ctime_ns) + _GRANULARITY_NS < time.time_ns()
