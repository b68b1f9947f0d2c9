"""Changing a document by span: what is not edited stays as it is, byte by byte."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

from dlmbuild.io.text import one_newline

_NO_NEWLINE = "\\ No newline at end of file"
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

    def line_at(row: int) -> str:
        return text[starts[row] : starts[row + 1] - 1 if row < last else len(text)]

    changed: dict[int, list[Edit]] = {}
    for edit in sorted(edits):
        changed.setdefault(bisect_right(starts, edit.start) - 1, []).append(edit)
    out = []
    shift = 0
    for rows in _hunks(sorted(changed), last + (starts[last] < len(text))):
        shown = []
        for row in rows:
            before = line_at(row)
            after = _after(before, changed.get(row, ()), starts[row])
            ends = [_NO_NEWLINE] if row == last else []
            if after == [before]:
                shown += [f" {before}", *ends]
            else:
                shown += [f"-{before}", *ends, *(f"+{line}" for line in after), *ends]
        added = sum(not line.startswith(("-", "\\")) for line in shown)
        out += [f"@@ -{rows.start + 1},{len(rows)} +{rows.start + 1 + shift},{added} @@", *shown]
        shift += added - len(rows)
    return "\n".join([f"--- {name}", f"+++ {name}", *out]) + "\n"


def _hunks(rows: list[int], total: int) -> list[range]:
    hunks: list[range] = []
    for row in rows:
        start, stop = max(row - _CONTEXT, 0), min(row + _CONTEXT + 1, total)
        if hunks and start <= hunks[-1].stop:
            start = hunks.pop().start
        hunks.append(range(start, stop))
    return hunks


def _after(line: str, edits: Iterable[Edit], start: int) -> list[str]:
    """What a line becomes: itself, another line, or none."""
    whole = line + "\n"
    for edit in reversed(list(edits)):
        whole = whole[: edit.start - start] + edit.new + whole[edit.end - start :]
    return [whole.removesuffix("\n")] if whole else []
