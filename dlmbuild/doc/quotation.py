"""A line as an error message quotes it, with a caret below the place."""

from __future__ import annotations

import unicodedata

from dlmbuild.errors import Where

_WIDTH = 100
"""Characters of a line that are shown; of a longer one those around the place."""


def quotation(line: str, where: Where) -> str:
    """Two lines: the text with its number, and the caret; what cannot be printed is shown as `·`."""
    at = max(where.col - 1, 0)
    start = max(0, at - _WIDTH // 2) if len(line) > _WIDTH else 0
    shown = [_visible(char) for char in line[start : start + _WIDTH]]
    before = ("…" if start else "") + "".join(shown[: at - start])
    after = "".join(shown[at - start :]) + ("…" if len(line) > start + _WIDTH else "")
    margin = f"{where.line:>5} | "
    return f"{margin}{before}{after}\n{'':>5} | {' ' * _columns(before)}^"


def _visible(char: str) -> str:
    return " " if char == "\t" else char if char.isprintable() else "·"


def _columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(bool(unicodedata.combining(char)) for char in text)
