"""What a base gives for a text, kept as files named by all that it depends on, and shared by documents.

A file holds bytes and then their SHA-256. Whoever finds it damaged computes it again, so nothing is flushed to the disk
and nothing is locked: a file appears whole, under a name that says what is in it.
"""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import suppress
from pathlib import Path

from dlmbuild.io.atomic import STAGING_SUFFIX

_DIGEST = 32


class Kept:
    """Bytes by name; in memory where there is no `folder`."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._here: dict[str, bytes] = {}

    def get(self, name: str) -> bytes | None:
        """What is kept under a name, the SHA-256 of what it is made from; None if that is missing or damaged.

        It counts as used now.
        """
        if self._folder is None:
            return self._here.get(name)
        path = self._folder / name[:2] / name
        try:
            data = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        found, digest = data[:-_DIGEST], data[-_DIGEST:]
        return found if hashlib.sha256(found).digest() == digest else None

    def put(self, name: str, data: bytes) -> None:
        """Keep some bytes."""
        if self._folder is None:
            self._here[name] = data
            return
        path = self._folder / name[:2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}{STAGING_SUFFIX}")
        temporary.write_bytes(data + hashlib.sha256(data).digest())
        temporary.replace(path)


def prune(folder: Path, most_bytes: int, most_days: float) -> list[Path]:
    """The files that may go: those not used for so many days, and then the ones used longest ago."""
    files = []
    for path in folder.glob("*/*"):
        with suppress(FileNotFoundError):  # the training of another document prunes, or puts its files in place
            stat = path.stat()
            files.append((stat.st_mtime, stat.st_size, path))
    left, oldest = sum(size for _, size, _ in files), time.time() - most_days * 86_400
    found = []
    for used, size, path in sorted(files):
        if used >= oldest and left <= most_bytes:
            break
        left -= size
        found.append(path)
    return found
