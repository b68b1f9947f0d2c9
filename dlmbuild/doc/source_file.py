"""The content of one source file: whether it is text, its digest, and the text itself.

Files are opened without following a link and without waiting for the other end of a pipe, and what was opened is
compared with what was found in the folder.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import stat
from operator import attrgetter

from dlmbuild.errors import DocumentError, StoreError
from dlmbuild.io.digest import sha256_bytes
from dlmbuild.io.text import decode_text

MAX_BYTES = 64 << 20
"""A larger file is not read unless the source's max_bytes_per_file asks for it."""

BINARY, NOT_UTF8, EMPTY, TOO_LARGE = "binary", "not UTF-8", "empty", "too large"
_BLOCK = 1 << 20
_IDENTITY = attrgetter("st_ino", "st_dev", "st_mode", "st_size", "st_mtime_ns", "st_ctime_ns")
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class ChangedError(Exception):
    """The file is not what was found in the folder, or changed while it was read."""


def examine(name: str, found: os.stat_result, limit: int, *, dir_fd: int | None = None) -> str:
    """The SHA-256 of a text file, or in one or two words why it gives no text.

    `found` is its stat. Raises ChangedError, and OSError as `open` does.
    """
    if found.st_size > limit:
        return TOO_LARGE
    if not found.st_size:
        return EMPTY  # or a file of the system, which may have no end
    fd = os.open(name, _FLAGS, dir_fd=dir_fd)
    try:
        if _IDENTITY(os.fstat(fd)) != _IDENTITY(found):
            raise ChangedError
        result = _digest(fd, limit)
        if _IDENTITY(os.fstat(fd)) != _IDENTITY(found):
            raise ChangedError
        return result
    finally:
        os.close(fd)


def source_text(path: str, sha256: str) -> str:
    """The text of a source file that has this digest. Raises StoreError if the file is another one by now."""
    try:
        with open(os.open(path, _FLAGS & ~os.O_NOFOLLOW), "rb") as file:  # noqa: PTH123 - never waits for a pipe
            data = file.read() if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
        if sha256_bytes(data) == sha256:
            return decode_text(data, path)
    except (OSError, DocumentError):
        pass
    raise StoreError(
        f"{shown_name(path)} changed after the check of its document", why="a build reads one state", do="doit"
    )


def shown_name(name: str) -> str:
    """A file's name on one line."""
    return name if name.isprintable() else ascii(name)[1:-1]


def _digest(fd: int, limit: int) -> str:
    decoder = codecs.getincrementaldecoder("utf-8")()
    digest = hashlib.sha256()
    read, blank = 0, True
    while data := os.read(fd, _BLOCK):
        read += len(data)
        if read > limit:
            return TOO_LARGE  # files of some filesystems tell no size
        if b"\0" in data:
            return NOT_UTF8 if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else BINARY
        try:
            text = decoder.decode(data)
        except UnicodeDecodeError:
            return NOT_UTF8
        blank = blank and not text.strip("\ufeff \t\r\n\f\v")
        digest.update(data)
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return NOT_UTF8
    return EMPTY if blank else digest.hexdigest()
