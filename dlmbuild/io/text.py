"""Reading a person's text file: strict UTF-8, one kind of newline, positions that an editor shows."""

from __future__ import annotations

import stat
from pathlib import Path

from dlmbuild.errors import DocumentError, Where

MAX_BYTES = 512 * 1024 * 1024
"""Nobody writes a text of this size by hand; reading one would only exhaust the memory."""

_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")


def decode_text(data: bytes, path: str) -> str:
    """UTF-8 text with `\\n` line ends; a byte order mark at the start is dropped.

    Raises DocumentError with the position of the first byte that is not UTF-8, or of a NUL.
    """
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DocumentError(
            f"byte 0x{data[error.start]:02x} is not UTF-8 text",
            where=_position(data, error.start, path),
            why="the file looks like UTF-16" if data.startswith(_UTF16_MARKS) else error.reason,
            do="save the file as UTF-8",
        ) from None
    nul = data.find(b"\0")
    if nul >= 0:
        raise DocumentError(
            "NUL byte in a text file",
            where=_position(data, nul, path),
            why="a document is text; this looks like a binary file",
            do="remove the byte, or name the right file",
        )
    return one_newline(text.removeprefix("\ufeff"))


def one_newline(text: str) -> str:
    """The text with `\\r\\n` and lone `\\r` as `\\n`."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_bytes(path: Path) -> bytes:
    """A person's file whole. Raises DocumentError when it cannot be read, is no plain file, or is over MAX_BYTES."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise DocumentError("not a plain file", where=Where(str(path)), do="name a text file")
        if status.st_size > MAX_BYTES:
            raise DocumentError(
                f"the file has {status.st_size} bytes",
                where=Where(str(path)),
                why=f"a document has at most {MAX_BYTES}",
                do="split it into several documents",
            )
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError, shown: Path | None = None) -> DocumentError:
    """What there is to say of a file that cannot be read; `shown` is how errors name it."""
    why, do = error.strerror or str(error), "check the path and its permissions"
    if isinstance(error, FileNotFoundError):
        if path.is_symlink():
            why, do = (
                f"it is a link to {path.readlink()}, which is not there",
                "bring that file back, or delete the link",
            )
        elif (longer := path.with_name(f"{path.name}.dlm")).is_file():
            do = f"write {longer}"
    return DocumentError("the file cannot be read", where=Where(str(shown or path)), why=why, do=do)


def read_text(path: Path) -> str:
    """`decode_text` of a file's content."""
    return decode_text(read_bytes(path), str(path))


def _position(data: bytes, offset: int, path: str) -> Where:
    before = one_newline(data[:offset].decode("utf-8", "replace").removeprefix("\ufeff"))
    return Where(path, before.count("\n") + 1, len(before) - before.rfind("\n"))
