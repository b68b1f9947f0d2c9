"""What a gate between named adapters learns from: the texts that train one of them alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dlmbuild.doc.routing import trains

_LONGEST = 2000
"""Characters of prose that count as one text; a paragraph of more is several."""
_PIECES = re.compile(f".{{1,{_LONGEST}}}(?:\\s+|$)|.{{{_LONGEST}}}", re.DOTALL)


def texts_of(sections: Sequence[Mapping[str, Any]], named: Sequence[str]) -> tuple[list[list[str]], list[list[str]]]:
    """(adapter, text) to learn from, and (adapter, probe): each once, in the order of sections as in document.json.

    Of questions and preferences it is what is asked; the answers are not there yet when the gate is. Prose that trains
    several adapters tells nothing about which.
    """
    learned: dict[tuple[str, str], None] = {}
    probes: dict[tuple[str, str], None] = {}
    for section in sections:
        of = trains(section["type"], section.get("adapter"), named)
        if len(of) == 1:
            for text, probe in _texts(section):
                (probes if probe else learned)[of[0], text] = None
    return [list(one) for one in learned], [list(one) for one in probes]


def _texts(section: Mapping[str, Any]) -> Iterator[tuple[str, bool]]:
    """The texts of a section, and whether each is a probe."""
    if section["type"] == "instruction":
        yield from ((pair["question"], bool(pair.get("probe"))) for pair in section["pairs"])
    elif section["type"] == "preference":
        yield from ((triple["prompt"], False) for triple in section["triples"])
    elif section["type"] == "prose":
        for paragraph in section["text"].split("\n\n"):
            yield from ((piece.strip(), False) for piece in _PIECES.findall(paragraph) if piece.strip())


def told(report: Mapping[str, Any]) -> str:
    """What gate_config.json says, in words."""
    if report["cold"]:
        return f"no gate, since {report['cold']}"
    parts = []
    if "held_out" in report:
        held, sure = report["held_out"], report["held_out"]["sure"]
        parts.append(f"{held['right']} of {held['of']} texts that it had not learned")
        parts.append(f"{sure['right']} of the {sure['of']} among them that it was sure of")
    if "probes" in report:
        parts.append(f"{report['probes']['right']} of {report['probes']['of']} probes")
    return f"knew {', '.join(parts)}" if parts else "was not measured: an adapter has only one text"
