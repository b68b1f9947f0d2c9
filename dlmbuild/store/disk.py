"""A disk that is full or may not be written to, in words."""

from __future__ import annotations

import errno

from dlmbuild.errors import StoreError
from dlmbuild.store.layout import Home

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)


def disk_error(error: OSError, home: Home) -> StoreError | None:
    """What to tell a person about `error`; None where the disk is not to blame."""
    if error.errno in _FULL:
        return StoreError(
            "the disk is full",
            why=f"{error.filename or home.root} could not be written; nothing that was finished is lost",
            do=f"free some space, or set DLM_HOME to a folder on another disk (now {home.root}), and run doit again",
        )
    if error.errno in _FORBIDDEN:
        return StoreError(
            f"{error.filename or home.root} cannot be written: {error.strerror}",
            do=f"make {home.root} writable, or set DLM_HOME to another folder",
        )
    return None
