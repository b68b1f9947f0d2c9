"""What stands below a fence, and the headers in it: `### Q` and `### A`; `### Prompt`, `### Chosen`, `### Rejected`.

Headers are Markdown headings of the third level that stand alone on their line outside code blocks; a heading that
nearly is one is refused, any other is content. Of each text the blank lines around it and the white space behind it are
left off, never the indentation of its first line.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from dlmbuild.doc.fences import Fence, how_to_show
from dlmbuild.doc.lookalikes import INVISIBLE, NUMBER_SIGNS, pattern, seen_as
from dlmbuild.doc.mistakes import Mistakes, shown
from dlmbuild.doc.sections import Pair, Triple

SPACE = rf"(?:[^\S\n]|[{INVISIBLE}])"
_HEADING = (
    rf"\n(?P<indent>[ {INVISIBLE}]{{0,3}})(?P<signs>[{NUMBER_SIGNS}]{{3}})(?!#)(?P<gap>{SPACE}*+)"
    r"(?P<word>(?i:q|a|question|answer|prompt|chosen|rejected|[a-z])(?![A-Za-z])"
    r"|(?=\w*[^\W\d_])(?=\w*[^\Wa-zA-Z])\w++)(?P<rest>[^\n]*+)"
)
"""A heading that may be a header or look like one, or be a single letter."""


class _Grammar:
    """The headers of a section in their order; `meant` has what people write in their place, in small letters."""

    def __init__(self, names: tuple[str, ...], meant: dict[str, str], *, probes: bool = False) -> None:
        self.names = names
        self.meant = meant
        self.probes = probes
        self.order = ", ".join(f"### {name}" for name in names)
        self.plain = [f"\n### {name}\n" for name in names]
        self.odd = _HEADING.replace(r"\n", rf"\n(?!### (?:{'|'.join(names)})\n)", 1)
        """Pattern of a heading that is not plainly one of the headers with a line below it."""


_PAIRS = _Grammar(("Q", "A"), {"q": "Q", "question": "Q", "a": "A", "answer": "A"}, probes=True)
_TRIPLES = _Grammar(("Prompt", "Chosen", "Rejected"), {"prompt": "Prompt", "chosen": "Chosen", "rejected": "Rejected"})


_NEARLY_NOTHING = rf"(?s)[\s\d.:?)#{INVISIBLE}]*([:!].*)?"
"""What may follow a header's word and still be nothing but a badly written header: `### Q1`, `### q: How many?`."""
_HIDDEN = f"[{INVISIBLE}]"
_TEXT = re.compile(r"\S")
_LONGEST = 20
"""Characters of a word that may be taken for one of a header."""
_PIECES = 1 << 12
"""Of a text that are put together at a time: a hundred million of them would not fit into memory."""


class _Header(NamedTuple):
    name: str
    probe: bool
    line: int
    col: int
    match: re.Match[str]
    """From the end of the line in front of it to its own end."""
    well_written: bool
    text: str = ""
    """What stands below it."""


class Spans:
    """Many spans of a text, in their order."""

    def __init__(self) -> None:
        self.starts, self.ends = array("Q"), array("Q")

    def append(self, start: int, end: int) -> None:
        self.starts.append(start)
        self.ends.append(end)


class Block:
    """What stands below a fence, from an offset of the text on.

    `code` and `removed` are those of the whole text so far: its code blocks, and what is left out of its lines.
    """

    __slots__ = ("_codes", "_removals", "code", "end", "fence", "line", "removed", "start", "whole")

    def __init__(self, whole: str, fence: Fence, start: int, line: int, code: Spans, removed: Spans) -> None:
        self.whole = whole
        self.fence = fence
        self.start = self.end = start
        self.line = line  # of what is at `start`
        self.code, self.removed = code, removed
        self._codes, self._removals = len(code.starts), len(removed.starts)  # that came before

    @property
    def plain(self) -> bool:
        """Whether every line stands as it is written, none of them in a code block."""
        return len(self.code.starts) == self._codes and len(self.removed.starts) == self._removals

    def text(self, start: int, end: int) -> str:
        """A part of the block without the blank lines around it."""
        starts, ends = self.removed.starts, self.removed.ends
        if len(starts) == self._removals:
            return self.whole[start:end].lstrip("\n").rstrip()
        parts, pieces = [], []
        for number in range(bisect_left(starts, start, self._removals), bisect_left(starts, end, self._removals)):
            pieces.append(self.whole[start : starts[number]])
            start = ends[number]
            if len(pieces) == _PIECES:
                parts.append("".join(pieces))
                pieces.clear()
        return "".join([*parts, *pieces, self.whole[start:end]]).lstrip("\n").rstrip()

    def first_text(self, end: int) -> int | None:
        """The number of the first line before offset `end` that is not blank."""
        found = _TEXT.search(self.whole, self.start, end)
        return self.line + self.whole.count("\n", self.start, found.start()) if found else None

    def headings(self) -> Iterator[re.Match[str]]:
        """The headings outside code blocks that may be headers."""
        number, starts, ends = self._codes, self.code.starts, self.code.ends
        for match in pattern(_HEADING).finditer(self.whole, max(self.start - 1, 0), self.end):
            while number < len(starts) and ends[number] <= match.start():
                number += 1
            if number == len(starts) or match.start() < starts[number]:
                yield match


def read_pairs(block: Block, mistakes: Mistakes) -> tuple[Pair, ...]:
    plain = _plain_groups(_PAIRS, block)
    if plain is not None:
        return tuple([Pair(texts[0], texts[1], False, lines[0], lines[1]) for texts, lines in plain])
    return tuple(Pair(q.text, a.text, q.probe, q.line, a.line) for q, a in _groups(_PAIRS, block, mistakes))


def read_triples(block: Block, mistakes: Mistakes) -> tuple[Triple, ...]:
    plain = _plain_groups(_TRIPLES, block)
    if plain is not None:
        return tuple([Triple(*texts, *lines) for texts, lines in plain])  # type: ignore[arg-type]
    groups = _groups(_TRIPLES, block, mistakes)
    return tuple(Triple(p.text, c.text, r.text, p.line, c.line, r.line) for p, c, r in groups)


def _plain_groups(grammar: _Grammar, block: Block) -> list[tuple[list[str], list[int]]] | None:
    """Texts and lines of the same groups that `_groups` finds, in a fraction of the time.

    None where there is more to see than plain headers in their order with a text below each.
    """
    if not block.plain:
        return None
    header, *headers = grammar.plain
    first, *parts = block.whole[block.start - 1 : block.end].split(header)
    if not parts or first.strip() or pattern(grammar.odd).search(block.whole, block.start - 1, block.end):
        return None
    groups = []
    line = block.line + first.count("\n")
    for part in parts:
        written = [part]
        for number, header in enumerate(headers, 2):
            written += written.pop().split(header)
            if len(written) != number:
                return None
        texts, lines = [], []
        for text in written:
            lines.append(line)
            line += text.count("\n") + 2
            text = text.strip("\n").rstrip()
            if text[:3] in ("", "###"):
                return None
            texts.append(text)
        groups.append((texts, lines))
    return groups


def refuse_headers(block: Block, mistakes: Mistakes, *, escapes: bool) -> None:
    """Note the headers in a prose section: whoever writes ### Q forgot the fence above it.

    Where other single letters are headings as well, they are an alphabet.
    """
    if any(len(match["word"]) == 1 and match["word"] not in "QqAa" for match in block.headings()):
        return
    for header in _headers(_PAIRS, block, block.headings()):
        if header.well_written:
            what = f"### {header.name} in a ::prose:: section"
            why, do = (
                "it would be learned as running text",
                f"put ::instruction:: above, or {how_to_show(escapes=escapes)}",
            )
            mistakes.add(header.line, header.col, what, why=why, do=do)


def _groups(grammar: _Grammar, block: Block, mistakes: Mistakes) -> Iterator[tuple[_Header, ...]]:
    """The fields of a section in complete groups: (Q, A) or (Prompt, Chosen, Rejected)."""
    names = grammar.names
    group: list[_Header] = []
    lost = False  # after a mistake, until the next group begins
    for field in _fields(grammar, block, mistakes):
        if field.name != names[len(group)]:
            if group:
                _refuse_incomplete(group, grammar, mistakes)
            elif not lost and field.well_written:  # else it has its mistake already
                what = f"### {field.name} without a ### {names[0]} before it"
                mistakes.add(field.line, field.col, what, why=f"the order is {grammar.order}", do=f"add ### {names[0]}")
            group, lost = [], True
        if group or field.name == names[0]:
            group.append(field)
            lost = False
        if len(group) == len(names):
            yield tuple(group)
            group = []
    if group:
        _refuse_incomplete(group, grammar, mistakes)


def _refuse_incomplete(group: list[_Header], grammar: _Grammar, mistakes: Mistakes) -> None:
    last, following = group[-1], grammar.names[len(group)]
    what = f"### {last.name} without a ### {following} after it"
    mistakes.add(last.line, last.col, what, why=f"the order is {grammar.order}", do=f"add ### {following}")


def _fields(grammar: _Grammar, block: Block, mistakes: Mistakes) -> Iterator[_Header]:
    """Each header with its text, in the order of the lines."""
    headers = list(_headers(grammar, block, block.headings()))
    starts = [max(header.match.start(), block.start) for header in headers] + [block.end]
    before = block.first_text(starts[0])
    if before is not None:
        why, do = f"the section holds {grammar.order}", "move it, or begin a ::prose:: section"
        mistakes.add(before, 1, f"text before the first ### {grammar.names[0]}", why=why, do=do)
    elif not headers:
        what, do = f"this ::{block.fence.type}:: section is empty", "add them, or delete the line"
        mistakes.add(block.fence.line, 1, what, why=f"it holds {grammar.order}", do=do)
    for header, end in zip(headers, starts[1:], strict=True):
        text = block.text(header.match.end(), end)
        if not header.well_written:
            _refuse_near_miss(header, grammar, mistakes)
        elif not text:
            why, do = "nothing can be learned from it", "write its text below it"
            mistakes.add(header.line, header.col, f"### {header.name} is empty", why=why, do=do)
        yield header._replace(text=text)


def _headers(grammar: _Grammar, block: Block, headings: Iterable[re.Match[str]]) -> Iterator[_Header]:
    """Those of the headings that are headers of this grammar, or nearly."""
    line, counted = block.line, block.start
    for match in headings:
        line += block.whole.count("\n", counted, match.start() + 1)
        counted = match.start() + 1
        name = grammar.meant.get(_seen(match["word"]))
        rest = match["rest"].strip()
        probes = grammar.probes and name == grammar.names[0]
        probe = probes and rest == "!probe" and match["rest"][0].isspace()
        if name and (not rest or probe or pattern(_NEARLY_NOTHING).fullmatch(rest)):
            spaced = match["gap"][:1] in (" ", "\t") and not pattern(_HIDDEN).search(match[0])
            spaced = spaced and match["signs"] == "###"
            well_written = spaced and match["word"] == name and (not rest or probe)
            yield _Header(name, probe, line, len(match["indent"]) + 1, match, well_written)


def _seen(word: str) -> str:
    """What the word of a heading looks like; a letter with a mark, such as Å, is a letter of its own."""
    marked = len(word) == 1 and unicodedata.decomposition(word)[:1].isalnum()
    return word if marked or len(word) > _LONGEST else seen_as(word)


def _refuse_near_miss(header: _Header, grammar: _Grammar, mistakes: Mistakes) -> None:
    meant, why = header.name, f"a header stands alone on its line as ### {header.name}"
    if grammar.probes and header.name == grammar.names[0]:
        why += f" or ### {header.name} !probe"
        meant += " !probe" * ("!" in header.match["rest"])
    do = f"write ### {meant}; a heading that is content goes into a code block or onto another level"
    what = f"badly written header {shown(header.match[0].strip())}"
    mistakes.add(header.line, header.col, what, why=why, do=do)
