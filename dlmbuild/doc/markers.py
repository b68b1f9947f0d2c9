"""Provenance markers, `<!-- dlm-auto-KIND: key="value" … -->` on the lines below a fence.

Tools that harvest, mine and synthesise write them. They say where a section comes from and are no part of its content.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import NamedTuple

from dlmbuild.doc.mistakes import Mistakes, nearest, shown


class Marker(NamedTuple):
    """One marker. `kind` is "harvest", "mined" or "synth"."""

    kind: str
    attributes: Mapping[str, str]


def _score(value: str) -> bool:
    number = re.fullmatch(r"[-+]?(\d{1,40}\.?\d{0,40}|\.\d{1,40})([eE][-+]?\d{1,3})?", value, re.ASCII)
    return number is not None and math.isfinite(float(value))


def _time(value: str) -> bool:
    try:
        datetime.fromisoformat(value)
    except ValueError:
        return False
    return True


_Check = tuple[Callable[[str], object], str]
_ANY, _SCORE, _TIME = (str.strip, "text"), (_score, "a number"), (_time, "a time such as 2026-01-31T12:00:00Z")
_RUN = re.compile("0*[1-9][0-9]{0,17}").fullmatch, "a whole number from 1"
_ID = re.compile("[0-9a-f]{16}").fullmatch, "the id of a section: 16 digits and small letters from a to f"
KINDS: dict[str, tuple[tuple[str, ...], dict[str, _Check]]] = {
    "harvest": (("instruction", "preference"), {"source": _ANY}),
    "mined": (
        ("preference",),
        {
            "judge_name": _ANY,
            "judge_score_chosen": _SCORE,
            "judge_score_rejected": _SCORE,
            "mined_at": _TIME,
            "mined_run_id": _RUN,
        },
    ),
    "synth": (
        ("instruction",),
        {
            "synth_teacher": _ANY,
            "synth_strategy": _ANY,
            "synth_at": _TIME,
            "source_section_id": _ID,
        },
    ),
}
"""Kind → the section types it may mark, and its attributes, all of which must be there."""

LIKE_A_MARKER = re.compile(r"\s{0,3}<!--\s{0,3}dlm-auto-")
_MARKER = re.compile(r"<!-- dlm-auto-([a-z]+):((?: [^\s=\"]++=\"[^\"]*+\")*) -->")
_ATTRIBUTE = re.compile(r' ([^\s="]+)="([^"]*)"')


def read_marker(line: int, text: str, section: str, mistakes: Mistakes) -> Marker | None:
    """Read a line that begins like a marker, in a section of this type. What is wrong with it is noted."""
    do = "mend the line, or delete it"
    found = _MARKER.fullmatch(text)
    if found is None:
        why = 'it is written <!-- dlm-auto-KIND: key="value" … --> with single spaces'
        mistakes.add(line, 1, f"badly written marker {shown(text)}", why=why, do=do)
        return None
    kind, col = found[1], found.start(1) + 1
    if kind not in KINDS:
        do = f"write {nearest(kind, KINDS)}" if nearest(kind, KINDS) else f"the kinds are {', '.join(KINDS)}"
        mistakes.add(line, col, f"unknown marker {shown(kind)}", do=do)
        return None
    sections, known = KINDS[kind]
    before = len(mistakes)
    if section not in sections:
        what, why = (
            f"a {kind} marker in an ::{section}:: section",
            f"it marks ::{':: and ::'.join(sections)}:: sections",
        )
        mistakes.add(line, col, what, why=why, do="delete the line")
    attributes: dict[str, str] = {}
    for attribute in _ATTRIBUTE.finditer(text, found.start(2), found.end(2)):
        (key, value), at = attribute.groups(), attribute.start(1) + 1
        if key not in known:
            guess = nearest(key, known)
            do = f"write {guess}" if guess else f"its attributes are {', '.join(known)}"
            mistakes.add(line, at, f"unknown attribute {shown(key)} of a {kind} marker", do=do)
        elif key in attributes:
            mistakes.add(line, at, f"attribute {shown(key)} a second time", do="delete one of them")
        elif not known[key][0](value):
            at = attribute.start(2) + 1
            mistakes.add(line, at, f"{key} is {shown(value)}", why=f"it must be {known[key][1]}", do="mend it")
        attributes[key] = value
    missing = [key for key in known if key not in attributes]
    if missing and attributes.keys() <= known.keys():  # else one of them is misspelt
        mistakes.add(line, found.end(2) + 1, f"a {kind} marker without {', '.join(missing)}", do="add what is missing")
    return Marker(kind, attributes) if len(mistakes) == before else None
