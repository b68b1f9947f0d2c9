"""Changing a document by span: what is not edited stays as it is, byte by byte."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

from dlmbuild.io.text import one_newline

_NO_NEWLINE = "\n\\ No newline at end of file\n"
_CONTEXT = 3


class Edit(NamedTuple):
    """New text for a span of a document's text (as it is read: without byte order mark, lines ending in `\\n`).

    A span lies within one line, or is one line with its end.
    """

    start: int
    end: int
    new: str


def edited(data: bytes, edits: Iterable[Edit]) -> bytes:
    """The bytes of a document after edits that do not overlap; other bytes, line ends included, are as they were."""
    raw = data.decode()
    mark = len(raw) - len(raw.removeprefix("\ufeff"))
    lines = _line_starts(r"\r\n?|\n", raw[mark:])
    read = _line_starts("\n", one_newline(raw[mark:]))

    def place(offset: int) -> int:
        row = bisect_right(read, offset) - 1
        return mark + lines[row] + offset - read[row]

    pieces = []
    at = 0
    for edit in sorted(edits):
        pieces += [raw[at : place(edit.start)], edit.new]
        at = place(edit.end)
    return "".join([*pieces, raw[at:]]).encode()


def _line_starts(end: str, text: str) -> array[int]:
    """Where the lines of a text begin; numbers of a list would take five times the room."""
    return array("Q", chain([0], (match.end() for match in re.finditer(end, text))))


def unified_diff(text: str, edits: Iterable[Edit], name: str) -> str:
    """The edits of a text as `diff -u` shows them; time is linear however large the text is."""
    starts = _line_starts("\n", text)
    last = len(starts) - 1
    changed: dict[int, list[Edit]] = {}
    for edit in sorted(edits, reverse=True):
        changed.setdefault(bisect_right(starts, edit.start) - 1, []).append(edit)
    out = [f"--- {name}\n", f"+++ {name}\n"]
    shift = 0
    for rows in _hunks(sorted(changed), last + (starts[last] < len(text))):
        shown = []
        for row in rows:
            start = starts[row]
            before = after = text[start : starts[row + 1] if row < last else len(text)]
            for edit in changed.get(row, ()):
                after = after[: edit.start - start] + edit.new + after[edit.end - start :]
            shown += [f" {before}"] if after == before else [f"-{before}", *([f"+{after}"] if after else [])]
        added = sum(not line.startswith("-") for line in shown)
        out += [f"@@ -{rows.start + 1},{len(rows)} +{rows.start + 1 + shift},{added} @@\n", *shown]
        shift += added - len(rows)
    return "".join(line if line.endswith("\n") else line + _NO_NEWLINE for line in out)


def _hunks(rows: list[int], total: int) -> list[range]:
    hunks: list[range] = []
    for row in rows:
        start, stop = max(row - _CONTEXT, 0), min(row + _CONTEXT + 1, total)
        if hunks and start <= hunks[-1].stop:
            start = hunks.pop().start
        hunks.append(range(start, stop))
    return hunks
