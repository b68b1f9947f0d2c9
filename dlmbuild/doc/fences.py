"""Section fences, `::type#adapter key="value"::` on a line of their own.

A line that starts like a fence is one, or is refused: never does a misspelt fence turn into text. Everything here is
linear in the length of a line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from dlmbuild.doc.lookalikes import COLONS, INVISIBLE, TWO_COLONS, pattern, seen_as
from dlmbuild.doc.mistakes import Mistakes, nearest, shortened, shown

ATTRIBUTES: dict[str, dict[str, bool]] = {
    "prose": {},
    "instruction": {},
    "preference": {},
    "image": {"path": True, "alt": False},
    "audio": {"path": True, "transcript": True},
}
"""Section type → its attributes, and whether each must be there."""

INDENT = rf"[{INVISIBLE}]*+(?:[^\S\n][{INVISIBLE}]*+){{0,3}}"
"""What may stand before a fence, which is then badly written. Behind four spaces a line is code, as in CommonMark."""
_SPELT = rf"{INDENT}::[A-Za-z]"
_COLON = f"[{COLONS}]"
# No group is possessive: Python before 3.11.5 goes on behind a turn that failed (python/cpython#106052).
_NEARLY = re.compile(
    r"""(:(?:\s*+:)*) \s*+ ([^\s:"=\#]++) \s*+ (\#[^\s:]*+)? \s*+ ((?:\w++\s*+=\s*+"[^"]*"\s*+)*) ([:\s]*)""",
    re.VERBOSE,
)
_NAME = re.compile(r"[^\W\d_][\w-]*")
_TYPE = re.compile(r"[A-Za-z0-9_-]+")
_ADAPTER = re.compile(r"[a-z][a-z0-9_]{0,31}")
_WORD = re.compile(r"[^\s:]*")
_SPACE = re.compile(r"\s*")
_REST = re.compile(r'((?:#[a-z][a-z0-9_]{0,31})?(?: [A-Za-z_][A-Za-z0-9_]*="[^"]*")*)\s*+:*+\s*+')
"""What may follow the type of a fence up to the end of its line, closed or not."""
_ATTRIBUTE = re.compile(r'([A-Za-z_][A-Za-z0-9_]*)="([^"]*)"')


class Fence(NamedTuple):
    """`::type#adapter key="value"::` on a line of its own. `type` is None if nobody knows what was meant."""

    line: int
    type: str | None
    adapter: str | None = None
    attributes: Mapping[str, str] = {}


def how_to_show(*, escapes: bool) -> str:
    """What to do with a line of structure that is meant as text; `escapes` are read from version 16 on."""
    return "put a backslash before it to have it as text" if escapes else "put the line into a code block to show it"


def read_fence(number: int, text: str, mistakes: Mistakes, *, escapes: bool = False) -> Fence | None:
    """Read a line that begins with a colon, or with what looks like one; None for a line that is text.

    Of what is wrong with a fence the first is noted.
    """
    show = how_to_show(escapes=escapes)
    if pattern(_SPELT).match(text):
        return _spelt(number, text, mistakes, show)
    bare = text
    if not (text.isascii() and text.isprintable()):
        bare = pattern(f"[{INVISIBLE}]+").sub("", text)
        bare = pattern(_COLON).sub(":", re.sub(f"[{TWO_COLONS}]", "::", bare))
    near = _NEARLY.fullmatch(bare.strip()) if bare.count(":") > 1 else None
    if near is None:
        return None
    opening, word, adapter, attributes, closing = near.groups()
    before, behind = opening.count(":"), closing.count(":")
    seen = seen_as(word)
    if seen in ATTRIBUTES:
        kind: str | None = seen
        meant = before + behind > 1  # not `: image`, an item of a definition list
    else:
        kind = nearest(seen, ATTRIBUTES) or None
        a_name = word[0].isalpha() and _NAME.fullmatch(seen) is not None
        meant = (before == 2 and behind > 0 and a_name) or (kind is not None and min(before, behind) > 1)
    if not meant:
        return None
    why = "it begins and ends with two plain colons, without white space around them"
    if word.lower() != seen:
        why = "names are written in plain letters"
    inside = (adapter or "") + (" " + attributes.strip() if attributes else "")
    do = f"write ::{kind or 'prose'}{shortened(inside)}::, or {show}"
    first = pattern(_COLON).search(text)
    col = first.end() if first else 1
    mistakes.add(number, col, f"badly written section fence {shown(text.strip())}", why=why, do=do)
    return Fence(number, kind)


def _spelt(number: int, text: str, mistakes: Mistakes, show: str) -> Fence:
    start = text.index("::")
    name = _match(_TYPE, text, start + 2)
    kind = name if name in ATTRIBUTES else None

    def wrong(at: int, what: str, *, why: str = "", do: str) -> Fence:
        mistakes.add(number, at + 1, what, why=why, do=f"{do}, or {show}")
        return Fence(number, kind)

    if kind is None:
        guess = nearest(name, ATTRIBUTES)
        kind = guess if guess == name.lower() else None
        why = "types are written in small letters" if kind else ""
        rest = _REST.fullmatch(text, start + 2 + len(name))
        inside = shortened(rest[1]) if rest else ""
        do = f"write {_fence(guess, inside)}" if guess else f"write one of {', '.join(ATTRIBUTES)}"
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
        inside = f"#{adapter}" * (adapter is not None)
        inside += "".join(f' {key}="{value}"' for key, value in attributes.items() if value)
        return wrong(at, f"::{kind} without {missing}", do=f"write {_fence(kind, shortened(inside))}")
    return Fence(number, kind, adapter, attributes)


def _fence(kind: str, inside: str) -> str:
    """The fence to write: with what stands `inside` it, and with … for what is missing there."""
    missing = (key for key, required in ATTRIBUTES[kind].items() if required and f' {key}="' not in inside)
    return f"::{kind}{inside}" + "".join(f' {key}="…"' for key in missing) + "::"


def _match(pattern: re.Pattern[str], text: str, at: int) -> str:
    match = pattern.match(text, at)
    return match[0] if match else ""
