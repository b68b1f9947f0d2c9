"""A body as its sections: prose, questions with answers, preferences, media.

Headers (`### Q`, `### A`, …) are Markdown headings of the third level that stand alone on their line outside code
blocks; a heading that nearly is one is refused, any other is content. Of each text the blank lines around it and the
white space behind it are left off, never the indentation of its first line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from dlmbuild.doc.fences import Fence, read_fence, tokens
from dlmbuild.doc.mistakes import Mistakes, shown


@dataclass(frozen=True, slots=True)
class Prose:
    """Running text. `line` is that of its fence, or of its first text where it has none."""

    text: str
    adapter: str | None
    line: int


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and its answer; `probe` asks for it to be kept for evaluation. Lines are those of the headers."""

    question: str
    answer: str
    probe: bool
    line: int
    answer_line: int


@dataclass(frozen=True, slots=True)
class Instruction:
    pairs: tuple[Pair, ...]
    adapter: str | None
    line: int


@dataclass(frozen=True, slots=True)
class Triple:
    """A prompt with a better and a worse answer. Lines are those of the headers."""

    prompt: str
    chosen: str
    rejected: str
    line: int
    chosen_line: int
    rejected_line: int


@dataclass(frozen=True, slots=True)
class Preference:
    triples: tuple[Triple, ...]
    adapter: str | None
    line: int


@dataclass(frozen=True, slots=True)
class Media:
    """An image or a recording, with the text below its fence."""

    kind: str
    path: str
    alt: str
    transcript: str
    text: str
    adapter: str | None
    line: int


Section = Prose | Instruction | Preference | Media


class _Grammar(NamedTuple):
    """The headers of a section in their order; `meant` has what people write in their place, in small letters."""

    names: tuple[str, ...]
    meant: dict[str, str]
    probes: bool = False

    @property
    def order(self) -> str:
        return ", ".join(f"### {name}" for name in self.names)


_PAIRS = _Grammar(("Q", "A"), {"q": "Q", "question": "Q", "a": "A", "answer": "A"}, probes=True)
_TRIPLES = _Grammar(("Prompt", "Chosen", "Rejected"), {"prompt": "Prompt", "chosen": "Chosen", "rejected": "Rejected"})

_HEADING = re.compile(r"( {0,3})###(?!#)(\s*)([A-Za-z]+)")
_NEARLY_NOTHING = re.compile(r"[\s\d.:?)#]*([:!].*)?", re.DOTALL)
"""What may follow a header's word and still be nothing but a badly written header: `### Q1`, `### q: How many?`."""


class _Header(NamedTuple):
    name: str
    probe: bool
    col: int
    well_written: bool


class _Field(NamedTuple):
    """A header and the text below it."""

    name: str
    probe: bool
    line: int
    col: int
    text: str


class _Block:
    """The lines below a fence; `headings` are indices into `lines`."""

    def __init__(self, fence: Fence | None, first_line: int) -> None:
        self.fence = fence
        self.first_line = first_line
        self.lines: list[str] = []
        self.headings: list[int] = []

    def text(self, start: int = 0, end: int | None = None) -> str:
        """Some of the lines without the blank ones around them."""
        lines = self.lines
        end = len(lines) if end is None else end
        while start < end and not lines[start]:
            start += 1
        return "\n".join(lines[start:end]).rstrip()

    def first_text(self, end: int | None = None) -> int | None:
        """The number of the first line before index `end` that is not blank."""
        return next((self.first_line + at for at, line in enumerate(self.lines[:end]) if line), None)


def read_sections(lines: Iterable[str], first_line: int, mistakes: Mistakes) -> tuple[Section, ...]:
    """Read a body. With mistakes noted the result is incomplete; it may serve to look for more."""
    sections: list[Section] = []
    block = _Block(None, first_line)
    for number, kind, text in tokens(lines, first_line, mistakes):
        if kind == "fence":
            sections += _section(block, mistakes)
            block = _Block(read_fence(number, text, mistakes), number + 1)
            continue
        if kind == "heading":
            block.headings.append(len(block.lines))
        block.lines.append(text)
    sections += _section(block, mistakes)
    return tuple(sections)


def _section(block: _Block, mistakes: Mistakes) -> Iterator[Section]:
    fence = block.fence
    if fence is None or fence.type == "prose":
        text = block.text()
        if text:
            line = fence.line if fence else block.first_text() or block.first_line
            yield Prose(text, fence.adapter if fence else None, line)
    elif fence.type == "instruction":
        pairs = [Pair(q.text, a.text, q.probe, q.line, a.line) for q, a in _groups(_PAIRS, fence, block, mistakes)]
        yield Instruction(tuple(pairs), fence.adapter, fence.line)
    elif fence.type == "preference":
        triples = [
            Triple(p.text, c.text, r.text, p.line, c.line, r.line)
            for p, c, r in _groups(_TRIPLES, fence, block, mistakes)
        ]
        yield Preference(tuple(triples), fence.adapter, fence.line)
    elif fence.type is not None:
        given = fence.attributes
        media = given.get("path", ""), given.get("alt", ""), given.get("transcript", "")
        yield Media(fence.type, *media, block.text(), fence.adapter, fence.line)


def _groups(grammar: _Grammar, fence: Fence, block: _Block, mistakes: Mistakes) -> Iterator[list[_Field]]:
    """The fields of a section in complete groups: (Q, A) or (Prompt, Chosen, Rejected)."""
    first = grammar.names[0]
    group: list[_Field] = []
    found = lost = False  # lost: after a mistake, until the next group begins
    for field in _fields(grammar, block, mistakes):
        found = True
        if field.name != grammar.names[len(group)]:
            if group:
                _refuse_incomplete(group, grammar, mistakes)
            elif not lost:
                what = f"### {field.name} without a ### {first} before it"
                mistakes.add(field.line, field.col, what, why=f"the order is {grammar.order}", do=f"add ### {first}")
            group, lost = [], True
        if group or field.name == first:
            group.append(field)
            lost = False
        if len(group) == len(grammar.names):
            yield group
            group = []
    if group:
        _refuse_incomplete(group, grammar, mistakes)
    if not found and block.first_text() is None:
        what, do = f"this ::{fence.type}:: section is empty", "add them, or delete the line"
        mistakes.add(fence.line, 1, what, why=f"it holds {grammar.order}", do=do)


def _refuse_incomplete(group: list[_Field], grammar: _Grammar, mistakes: Mistakes) -> None:
    last, following = group[-1], grammar.names[len(group)]
    what = f"### {last.name} without a ### {following} after it"
    mistakes.add(last.line, last.col, what, why=f"the order is {grammar.order}", do=f"add ### {following}")


def _fields(grammar: _Grammar, block: _Block, mistakes: Mistakes) -> Iterator[_Field]:
    """Each header with its text, in the order of the lines."""
    headers = [(at, header) for at in block.headings if (header := _header(grammar, block, at, mistakes))]
    before = block.first_text(headers[0][0] if headers else None)
    if before is not None:
        why, do = f"the section holds {grammar.order}", "move it, or begin a ::prose:: section"
        mistakes.add(before, 1, f"text before the first ### {grammar.names[0]}", why=why, do=do)
    ends = [at for at, _ in headers[1:]] + [len(block.lines)]
    for (at, header), end in zip(headers, ends, strict=False):
        text, line = block.text(at + 1, end), block.first_line + at
        if not text and header.well_written:
            why, do = "nothing can be learned from it", "write its text below it"
            mistakes.add(line, header.col, f"### {header.name} is empty", why=why, do=do)
        yield _Field(header.name, header.probe, line, header.col, text)


def _header(grammar: _Grammar, block: _Block, at: int, mistakes: Mistakes) -> _Header | None:
    """The header at an index of the block; None for a heading that is content. A near miss is noted, taken as meant."""
    line = block.lines[at]
    heading = _HEADING.match(line)
    name = grammar.meant.get(heading[3].lower()) if heading else None
    if heading is None or name is None:
        return None
    col = len(heading[1]) + 1
    behind = line[heading.end() :]
    rest = behind.strip()
    probe = rest == "!probe" and behind[0].isspace() and grammar.probes and name == grammar.names[0]
    if (not rest or probe) and heading[2][:1] in (" ", "\t") and heading[3] == name:
        return _Header(name, probe, col, True)
    if not _NEARLY_NOTHING.fullmatch(rest):
        return None
    why = f"a header stands alone on its line as ### {name}"
    if grammar.probes and name == grammar.names[0]:
        why += f" or ### {name} !probe"
    do = f"write ### {name}; a heading that is content goes into a code block or onto another level"
    mistakes.add(block.first_line + at, col, f"badly written header {shown(line.strip())}", why=why, do=do)
    return _Header(name, probe, col, False)
