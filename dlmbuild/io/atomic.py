"""Files that appear whole or not at all: write beside the goal, flush to disk, rename.

A reader, and the next start after `kill -9` or a power cut, sees the old content or the new one, never a part.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

STAGING_SUFFIX = ".staging"
"""Marks what a killed process may leave behind; whoever holds the lock of that place may delete it."""


def fsync_path(path: Path) -> None:
    """Flush a file or a folder to disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_tree(folder: Path) -> None:
    """Flush every file and folder below `folder`, and `folder` itself."""
    for path in folder.rglob("*"):
        fsync_path(path)
    fsync_path(folder)


def write_atomic(path: Path, data: bytes, mode: int | None = None) -> None:
    """Replace the content of `path` in one step, creating its folder; `mode` says who may read it, from the start."""
    with create_atomic(path) as file:
        if mode is not None:
            os.chmod(file.name, stat.S_IMODE(mode))  # noqa: PTH101
        file.write(data)


def free_name(path: Path, suffix: str) -> Path:
    """A name beside `path` that nothing has yet: NAME.suffix, NAME.suffix2, …"""
    names = (path.with_name(f"{path.name}.{suffix}{number}") for number in ("", *range(2, 10_000)))
    return next(name for name in names if not name.exists())


@contextmanager
def create_atomic(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that appears at `path` when the block ends well, and not at all otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}{STAGING_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_path(path.parent)


@contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """A fresh folder inside `parent` (so that renames stay on one filesystem); gone when the block ends."""
    parent.mkdir(parents=True, exist_ok=True)
    folder = parent / f".{os.urandom(6).hex()}{STAGING_SUFFIX}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep_staging(parent: Path) -> None:
    """Delete what killed processes left in `parent`. The caller holds the lock of that place."""
    for path in parent.glob(f".*{STAGING_SUFFIX}"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
