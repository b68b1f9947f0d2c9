"""A line as an error message quotes it, with a caret below the place."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

from dlmbuild.errors import Where
from dlmbuild.io.text import one_newline

_NO_TEXT = re.compile("[\0\udc80-\udcff]")
_WIDTH = 100
"""Characters of a line that are shown; of a longer one those around the place."""


def lines_in(path: Path) -> list[str]:
    """The lines of a file to quote from, none where it cannot be read; a byte that is no text is a lone surrogate."""
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return []
    return one_newline(text.removeprefix("\ufeff")).split("\n")


def quotation(line: str, where: Where) -> str:
    """Two lines: the text with its number, and the caret.

    What cannot be printed is shown as `·`, and a byte that is no text as `\\xNN`.
    """
    at = max(where.col - 1, 0)
    start = max(0, at - _WIDTH // 2) if len(line) > _WIDTH else 0
    shown = [_visible(char) for char in line[start : start + _WIDTH]]
    before = ("…" if start else "") + "".join(shown[: at - start])
    after = "".join(shown[at - start :]) + ("…" if len(line) > start + _WIDTH else "")
    margin = f"{where.line:>5} | "
    return f"{margin}{before}{after}\n{'':>5} | {' ' * _columns(before)}^"


def _visible(char: str) -> str:
    if _NO_TEXT.match(char):
        return f"\\x{ord(char) & 0xFF:02x}"
    return " " if char == "\t" else char if char.isprintable() else "·"


def _columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(bool(unicodedata.combining(char)) for char in text)
