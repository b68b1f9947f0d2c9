"""What a base gives for a text, kept as files named by all that it depends on, and shared by documents.

A file holds bytes and then their SHA-256. Whoever finds it damaged computes it again, so nothing is flushed to the disk
and nothing is locked: a file appears whole, under a name that says what is in it.
"""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

from dlmbuild.io.atomic import STAGING_SUFFIX

_DIGEST = 32


class Kept:
    """Bytes by name; in memory where there is no `folder`."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._here: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        """What is kept under a name, the SHA-256 of what it is made from; None if that is missing or damaged."""
        if self._folder is None:
            return self._here.get(name)
        try:
            data = self._path(name).read_bytes()
        except OSError:
            return None
        found, digest = data[:-_DIGEST], data[-_DIGEST:]
        return found if hashlib.sha256(found).digest() == digest else None

    def used(self, name: str) -> bytes | None:
        """The same, and it counts as used now."""
        found = self.get(name)
        if found is not None and self._folder is not None:
            os.utime(self._path(name))
        return found

    def put(self, name: str, data: bytes) -> None:
        """Keep some bytes."""
        if self._folder is None:
            self._here[name] = data
            return
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}{STAGING_SUFFIX}")
        temporary.write_bytes(data + hashlib.sha256(data).digest())
        temporary.replace(path)

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / name[:2] / name


def prune(folder: Path, most_bytes: int, most_days: float) -> list[Path]:
    """The files that may go: those not used for so many days, and then the ones used longest ago."""
    files = sorted(((path, path.stat()) for path in folder.glob("*/*")), key=lambda file: file[1].st_mtime)
    left, oldest = sum(stat.st_size for _, stat in files), time.time() - most_days * 86_400
    found = []
    for path, stat in files:
        if stat.st_mtime >= oldest and left <= most_bytes:
            break
        left -= stat.st_size
        found.append(path)
    return found
