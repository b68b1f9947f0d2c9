"""One builder at a time: an advisory lock of the operating system, which dies with its process.

Never a pid file: those outlive a kill, and then somebody has to know which file to delete.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path


@contextmanager
def exclusive(lock_file: Path, who: str, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold `lock_file` for the block; `waiting` is told once, in words, for whom this process has to wait."""
    from filelock import FileLock, Timeout  # 0.06 s to import, and only a build that has work to do needs it

    lock_file.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(lock_file, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting(f"waiting for {_holder(lock_file) or 'another build'}")
        lock.acquire()
    try:
        with suppress(OSError):  # on a full disk, what makes room must go on
            _holder_file(lock_file).write_text(f"{who} (process {os.getpid()})\n")
        yield
    finally:
        with suppress(OSError):
            _holder_file(lock_file).unlink(missing_ok=True)
        lock.release()


@contextmanager
def all_exclusive(folders: Callable[[], Iterable[Path]], who: str, waiting: Callable[[str], None]) -> Iterator[None]:
    """Hold the locks of all stores and bases for the block: a build that works in one of them holds its own.

    `folders` is asked again after each wait, in which new ones may have come.
    """
    held: set[Path] = set()
    with ExitStack() as locks:
        while new := sorted(set(folders()) - held):
            for folder in new:
                locks.enter_context(exclusive(folder / ".lock", who, waiting))
            held.update(new)
        yield


def holder(lock_file: Path) -> str:
    """Who holds a lock, in words; empty if nobody does."""
    from filelock import FileLock, Timeout

    if not lock_file.is_file():
        return ""
    try:
        with FileLock(lock_file, thread_local=False).acquire(timeout=0):
            return ""
    except Timeout:
        return _holder(lock_file)
    except PermissionError:  # another's store: who may not lock cannot ask either
        return ""


def _holder_file(lock_file: Path) -> Path:
    # A note for people beside the lock; whether the lock is held is only ever asked of the operating system.
    return lock_file.with_name(lock_file.name + ".holder")


def _holder(lock_file: Path) -> str:
    try:
        return _holder_file(lock_file).read_text().strip()
    except OSError:
        return ""
