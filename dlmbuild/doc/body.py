"""A body as its sections.

One search finds every place where a line may be more than text: a section fence, a code block, a line of nothing but
white space. All between two such places is text that nobody looks at, which makes reading fast. Code blocks follow
CommonMark 0.31 §4.5 (https://spec.commonmark.org/0.31.2/#fenced-code-blocks).
"""

from __future__ import annotations

import gc
import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from dlmbuild.doc.fences import ATTRIBUTES, INDENT, Fence, read_fence
from dlmbuild.doc.headers import SPACE, Block, Spans, read_pairs, read_triples, refuse_headers
from dlmbuild.doc.lookalikes import COLONS, NUMBER_SIGNS, pattern
from dlmbuild.doc.markers import LIKE_A_MARKER, Marker, read_marker
from dlmbuild.doc.mistakes import Mistakes, shortened, shown
from dlmbuild.doc.sections import Body, Instruction, Media, Preference, Prose, Section

_STRUCTURE = rf"""(?x)\n(?![!-9;-\[\]-_a-}}]|\ {{4}}\ *+\S)(?:
        ::(?P<plain>prose|instruction|preference)::(?=\n|\Z)
      | (?P<blank>[^\S\n]++)(?=\n|\Z)
      | \ {{0,3}}(?P<code>`{{3,}}+(?=[^`\n]*+(?:\n|\Z))|~{{3,}}+)
      | {INDENT}(?P<fence>[{COLONS}])
"""
"""Whatever begins a line and may be more than the text of a section. The group that took part says what it is.

What stands first is for speed alone: most lines begin with what none of these does.
"""
_OTHER_ENDS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
"""What editors may show as the end of a line."""
_BEHIND_ONE = (
    rf"[{_OTHER_ENDS}](?P<line>[^\S\n{_OTHER_ENDS}]*+(?:::(?:{'|'.join(ATTRIBUTES)})\b[^\n{_OTHER_ENDS}]*?::"
    rf"|\#\#\#[ \t]+(?:Q|A|Prompt|Chosen|Rejected)(?:[ \t]+!probe)?))[ \t]*+(?=[\n{_OTHER_ENDS}]|\Z)"
)
"""A section fence or a header that only seems to stand on a line of its own."""
_ESCAPED = rf"      | {SPACE}{{0,3}}(?P<escape>\\)\\*+(?=[{COLONS}]|[{NUMBER_SIGNS}]{{3}}|```|~~~)"
"""The beginning of a line that is text because of its first backslash, which is left out, from version 16 on."""


def structure(*, escapes: bool) -> re.Pattern[str]:
    """What finds the places of a body where a line may be more than text; `escapes` are read from version 16 on."""
    return pattern(f"{_STRUCTURE}{_ESCAPED if escapes else ''})")


def has_escapes(text: str, start: int) -> bool:
    """Whether a line from this offset on, in a code block or not, begins with what version 16 takes for an escape."""
    return pattern(rf"(?x)\n(?:{_ESCAPED.replace('|', '', 1)})").search(text, max(start - 1, 0)) is not None


def read_sections(text: str, start: int, line: int, mistakes: Mistakes, *, escapes: bool = False) -> Body:
    """Read the body that begins at an offset of a document's text, on this line.

    With `escapes` a backslash makes text of a line that would be structure. With mistakes noted the result is
    incomplete; it may serve to look for more.
    """
    with _no_collection():
        return _Reader(text, start, line, mistakes, escapes).body()


class _Reader:
    def __init__(self, text: str, start: int, line: int, mistakes: Mistakes, escapes: bool) -> None:
        self._text = text
        self._start = start
        self._mistakes = mistakes
        self._escapes = escapes
        self._structure = structure(escapes=escapes)
        self._sections: list[Section] = []
        self._spans: list[tuple[int, int]] = []
        self._backslashes = array("Q")
        self._code, self._removed = Spans(), Spans()
        self._block = Block(text, Fence(0, "prose"), start, line, self._code, self._removed)
        self._begun = self._counted = start, line

    def body(self) -> Body:
        text, spans = self._text, self._spans
        self._scan()
        self._finish(len(text))
        if any(end in text for end in _OTHER_ENDS):
            self._refuse_other_ends()
        # One end of line belongs to the `---` and one to the end of the file.
        if spans and spans[0][0] == self._start < len(text) and text[self._start] == "\n":
            spans[0] = self._start + 1, spans[0][1]
        if spans and spans[-1][1] == len(text) and text.endswith("\n", spans[-1][0]):
            spans[-1] = spans[-1][0], len(text) - 1
        return Body(text, tuple(self._sections), tuple(spans), self._backslashes)

    def _scan(self) -> None:
        closed = 0  # the end of the last code block
        for match in self._structure.finditer(self._text, max(self._start - 1, 0)):
            kind, place = match.lastgroup, match.start()
            if place < closed:
                continue
            if kind == "plain":
                self._begin(place, match.end(), Fence(self._line(place + 1), match["plain"]))
            elif kind == "fence":
                end = self._text.find("\n", place + 1)
                end = len(self._text) if end < 0 else end
                line = self._text[place + 1 : end]
                fence = read_fence(self._line(place + 1), line, self._mistakes, escapes=self._escapes)
                if fence:
                    self._begin(place, end, fence)
            elif kind == "code":
                closed = end_of_code(match)
                self._code.append(place, closed)
                if closed > len(self._text):
                    self._refuse_unclosed(match)
                    break
            else:
                self._removed.append(*match.span(kind or 0))
                if kind == "escape":
                    self._backslashes.append(match.start(kind))

    def _line(self, at: int) -> int:
        """The number of the line at an offset; they come in their order."""
        counted, line = self._counted
        line += self._text.count("\n", counted, at)
        self._counted = at, line
        return line

    def _begin(self, place: int, end: int, fence: Fence) -> None:
        """Go on below a fence, whose line ends at `end`."""
        self._finish(place)
        start = min(end + 1, len(self._text))
        self._block = Block(self._text, fence, start, fence.line + 1, self._code, self._removed)

    def _finish(self, end: int) -> None:
        block = self._block
        block.end = max(end, block.start)
        markers = _markers(block, self._mistakes) if self._text.startswith("<!--", block.start) else ()
        section = _section(block, markers, self._mistakes, escapes=self._escapes)
        if section:
            self._sections.append(section)
            self._spans.append((block.start, block.end))

    def _refuse_other_ends(self) -> None:
        self._counted = self._begun
        for match in pattern(_BEHIND_ONE).finditer(self._text, self._start):
            at, line = match.start(), self._line(match.start())
            code = bisect_right(self._code.starts, at) - 1
            if code < 0 or self._code.ends[code] <= at:
                col = at - self._text.rfind("\n", 0, at)
                what = f"the character U+{ord(match[0][0]):04X} before {shown(match['line'].strip())}"
                why = "it ends no line, so that this is text, which some editors show as a line of its own"
                self._mistakes.add(line, col, what, why=why, do="write a line end in its place, or delete it")

    def _refuse_unclosed(self, opened: re.Match[str]) -> None:
        line, col = self._line(opened.start() + 1), opened.start("code") - opened.start()
        why = "everything down to the end of the file would be code"
        do = f"close it with a line {shortened(opened['code'])}"
        self._mistakes.add(line, col, "this code block is never closed", why=why, do=do)


@contextmanager
def _no_collection() -> Iterator[None]:
    """No search for cycles meanwhile: reading makes none, and looking at millions of texts takes half of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _markers(block: Block, mistakes: Mistakes) -> tuple[Marker, ...]:
    """The markers on the first lines of a block, which then begins below them."""
    if block.fence.type not in ("instruction", "preference"):
        return ()
    markers = []
    while LIKE_A_MARKER.match(block.whole, block.start, block.end):
        end = block.whole.find("\n", block.start, block.end)
        end = block.end if end < 0 else end
        marker = read_marker(block.line, block.whole[block.start : end], block.fence.type, mistakes)
        if marker:
            markers.append(marker)
        block.start, block.line = min(end + 1, block.end), block.line + 1
    return tuple(markers)


def _section(block: Block, markers: tuple[Marker, ...], mistakes: Mistakes, *, escapes: bool) -> Section | None:
    fence = block.fence
    if fence.type == "instruction":
        return Instruction(read_pairs(block, mistakes), fence.adapter, fence.line, markers)
    if fence.type == "preference":
        return Preference(read_triples(block, mistakes), fence.adapter, fence.line, markers)
    text = block.text(block.start, block.end)
    if fence.type == "prose":
        refuse_headers(block, mistakes, escapes=escapes)
        line = fence.line or block.first_text(block.end) or block.line
        return Prose(text, fence.adapter, line) if text else None
    if fence.type is None:
        return None
    given = fence.attributes
    media = given.get("path", ""), given.get("alt", ""), given.get("transcript", "")
    return Media(fence.type, *media, text, fence.adapter, fence.line)


def end_of_code(opened: re.Match[str]) -> int:
    """Where the line ends that closes a code block; behind the end of the text if none does."""
    found = _closer(opened["code"]).search(opened.string, opened.end())
    return found.end() if found else len(opened.string) + 1


@lru_cache(maxsize=16)
def _closer(marker: str) -> re.Pattern[str]:
    return re.compile(rf"\n {{0,3}}{marker[0]}{{{len(marker)},}}+[ \t]*+(?=\n|\Z)")
