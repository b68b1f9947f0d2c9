"""A disk that is full, what may not be read or written, and a $DLM_HOME that cannot be a folder, in words."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from dlmbuild.errors import StoreError
from dlmbuild.store.layout import Home

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
_IN_THE_WAY = (errno.ENOTDIR, errno.EEXIST, errno.EISDIR)
_FULL_IN_WORDS = re.compile(
    r"No space left on device|[Qq]uota exceeded|os error (28|122)\b"  # safetensors and others written in Rust or C++
    r"|database or disk is full"  # SQLite
    r"|inline_container.* unexpected pos \d+ vs \d+|PyTorchStreamWriter failed writing"  # torch.save
    r"|\d+ requested and \d+ written"  # numpy
)
"""How libraries say it whose errors have no number."""


def disk_error(error: BaseException, home: Home) -> StoreError | None:
    """What to tell a person about `error`, or about what it came from; None where the disk is not to blame."""
    for cause in _causes(error):
        if (isinstance(cause, OSError) and cause.errno in _FULL) or _FULL_IN_WORDS.search(str(cause)):
            return _full(cause, home)
    if not isinstance(error, OSError):
        return None
    if not os.path.isdir(home.root):  # noqa: PTH112 - unlike Path.is_dir, never an error itself
        return StoreError(
            f"{home.root} is no folder and cannot become one",
            why=error.strerror or str(error),
            do="set DLM_HOME to a folder that you can write to",
        )
    if error.errno in _FORBIDDEN and error.filename is not None and not _lies_in(home, error.filename):
        needed = "written" if error.errno == errno.EROFS else "read, written or run"
        return StoreError(
            f"{error.filename} cannot be {needed}: {error.strerror}", do="check the path and its permissions"
        )
    if error.errno in _FORBIDDEN:
        return StoreError(
            f"{error.filename or home.root} cannot be written: {error.strerror}",
            do=f"make {home.root} writable, or set DLM_HOME to another folder",
        )
    place = error.filename2 or error.filename  # of a renaming, what it was to become
    if error.errno in _IN_THE_WAY and _lies_in(home, place):
        return StoreError(
            f"{place} cannot be written: {error.strerror}",
            why="something else lies where a folder or file of the store belongs",
            do="move it away, or set DLM_HOME to another folder",
        )
    return None


def require_readable(home: Home, *more: Path) -> None:
    """Raises StoreError where the home, or one of `more` below it, is there and cannot be looked into.

    What is not there yet is fine: nothing has been built.
    """
    for folder in (home.root, *(home.root / name for name in ("store", "bases")), home.records, home.objects, *more):
        try:
            os.scandir(folder).close()
        except FileNotFoundError:
            pass
        except OSError as error:
            told = None if os.path.isdir(home.root) else disk_error(error, home)  # noqa: PTH112
            raise told or StoreError(
                f"{folder} cannot be looked into",
                why=error.strerror or str(error),
                do=f"make {folder} readable, or set DLM_HOME to another folder",
            ) from None


def _lies_in(home: Home, filename: object) -> bool:
    return f"{filename}/".startswith(f"{home.root}/")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from."""
    found: BaseException | None = error
    for _ in range(10):  # errors may go round in a circle
        if found is None:
            return
        yield found
        found = found.__cause__ or found.__context__


def _full(error: BaseException, home: Home) -> StoreError:
    place = getattr(error, "filename", None) or home.root
    return StoreError(
        "the disk is full",
        why=f"{place} could not be written; nothing that was finished is lost",
        do=f"free some space, or set DLM_HOME to a folder on another disk (now {home.root}), and run doit again",
    )
