"""The lines of a body, told apart once for every grammar: text, headings, code, and section fences.

Code blocks follow CommonMark 0.31 §4.5 (https://spec.commonmark.org/0.31.2/#fenced-code-blocks). Outside of them, a
line that starts like a section fence is one, or is refused: never does a misspelt fence turn into text.
Everything here is linear in the length of a line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from dlmbuild.doc.mistakes import Mistakes, nearest, shortened, shown

Kind = Literal["text", "heading", "code", "fence"]
Line = tuple[int, Kind, str]
"""Number in the file, kind, and the line without its end. Blank lines of text come as ""."""

ATTRIBUTES: dict[str, dict[str, bool]] = {
    "prose": {},
    "instruction": {},
    "preference": {},
    "image": {"path": True, "alt": False},
    "audio": {"path": True, "transcript": True},
}
"""Section type → its attributes, and whether each must be there."""

_INVISIBLE = "\ufeff\u200b"
_CODE = re.compile(r" {0,3}(`{3,}|~{3,})")
_HEADING = re.compile(" {0,3}#")
_LIKE_A_FENCE = re.compile(rf"[\s{_INVISIBLE}]{{0,3}}::[A-Za-z]")
_PLAIN_START = re.compile(rf"[^\s{_INVISIBLE}#:`~]").match
_TYPE = re.compile(r"[A-Za-z0-9_-]+")
_ADAPTER = re.compile(r"[a-z][a-z0-9_]{0,31}")
_WORD = re.compile(r"[^\s:]*")
_SPACE = re.compile(r"\s*")
_ATTRIBUTE = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Fence:
    """`::type#adapter key="value"::` on a line of its own. `type` is None if nobody knows what was meant."""

    line: int
    type: str | None
    adapter: str | None = None
    attributes: dict[str, str] = field(default_factory=dict)


def tokens(lines: Iterable[str], first_line: int, mistakes: Mistakes) -> Iterator[Line]:
    """Tell the lines of a body apart; a code block that is never closed is a mistake, noted at its beginning."""
    marker = ""  # the backticks or tildes that opened the code block we are in
    opened = (0, 0)
    for number, text in enumerate(lines, first_line):
        if not text or text[0].isalnum() or _PLAIN_START(text):  # nearly all lines
            yield number, "code" if marker else "text", text
        elif marker:
            run = _CODE.match(text)
            if run and run[1].startswith(marker) and not text[run.end() :].strip(" \t"):
                marker = ""
            yield number, "code", text
        elif (run := _CODE.match(text)) and not (run[1][0] == "`" and "`" in text[run.end() :]):
            marker, opened = run[1], (number, run.start(1) + 1)
            yield number, "code", text
        elif _LIKE_A_FENCE.match(text):
            yield number, "fence", text
        elif _HEADING.match(text):
            yield number, "heading", text
        else:
            yield number, "text", "" if text.isspace() else text
    if marker:
        why, do = "everything down to the end of the file would be code", f"close it with a line {shortened(marker)}"
        mistakes.add(*opened, "this code block is never closed", why=why, do=do)


def read_fence(number: int, text: str, mistakes: Mistakes) -> Fence:
    """Read a section fence; of what is wrong with it the first is noted."""
    start = text.index("::")
    name = _match(_TYPE, text, start + 2)
    kind = name if name in ATTRIBUTES else None

    def wrong(at: int, what: str, *, why: str = "", do: str) -> Fence:
        mistakes.add(number, at + 1, what, why=why, do=f"{do}, or put the line into a code block to show it")
        return Fence(number, kind)

    if kind is None:
        guess = nearest(name, ATTRIBUTES)
        kind = guess if guess == name.lower() else None
        why = "types are written in small letters" if kind else ""
        do = f"write ::{guess}" if guess else f"write one of {', '.join(ATTRIBUTES)}"
        return wrong(start + 2, f"unknown section type {shown(name)}", why=why, do=do)
    if start:
        return wrong(0, "white space before a section fence", why="it begins at the first column", do="delete it")
    at = start + 2 + len(name)
    adapter = None
    if text.startswith("#", at):
        adapter = _match(_WORD, text, at + 1)
        if not _ADAPTER.fullmatch(adapter):
            why = "it has up to 32 small letters, digits and _, the first a letter"
            return wrong(at + 1, f"adapter name {shown(adapter)}", why=why, do="rename the adapter")
        at += 1 + len(adapter)
    end = len(text.rstrip())
    known = ATTRIBUTES[kind]
    attributes: dict[str, str] = {}
    while not text.startswith("::", at):
        key_at = at + len(_match(_SPACE, text, at))
        attribute = _ATTRIBUTE.match(text, key_at)
        if text[at:end] in ("", ":"):
            return wrong(at, f"::{kind} without its closing ::", do="end the line with ::")
        if attribute is None or key_at == at:
            return wrong(key_at, f"unexpected {shown(text[key_at:end])}", why='here is key="value" or ::', do="mend it")
        key, value = attribute.groups()
        if key not in known:
            guess = nearest(key, known)
            do = f"write {guess}" if guess else f"delete it (its attributes: {', '.join(known) or 'none'})"
            return wrong(key_at, f"unknown attribute {shown(key)} of ::{kind}", do=do)
        if key in attributes:
            return wrong(key_at, f"attribute {shown(key)} a second time", do="delete one of them")
        attributes[key] = value
        at = attribute.end()
    if at + 2 < end:
        what = f"{shown(text[at + 2 : end])} after a section fence"
        return wrong(at + 2, what, why="a fence ends its line", do="delete it")
    if end < len(text):
        return wrong(end, "white space after a section fence", why="a fence ends its line", do="delete it")
    missing = next((key for key, required in known.items() if required and not attributes.get(key)), None)
    if missing:
        return wrong(at, f"::{kind} without {missing}", do=f'write ::{kind} {missing}="…"::')
    return Fence(number, kind, adapter, attributes)


def _match(pattern: re.Pattern[str], text: str, at: int) -> str:
    match = pattern.match(text, at)
    return match[0] if match else ""
