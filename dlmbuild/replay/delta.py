"""What became of a document's sections from one trained version to the next: pure functions of what they say.

A section is named by what it teaches. One that is gone was either edited, and then its old text is superseded and never
trains again, or deleted, and then it may be replayed. In doubt it counts as edited:

- where something new stands in its place, between the same neighbours, it was edited, unless all that is new there goes
  on saying a part of something else that stood there;
- where the document still says a part of it anywhere (a question; an answer or a sentence of four words or more), it
  was edited, moved, split or joined;
- only what is gone and left nothing behind was deleted. If a part of it is said again later, it is superseded then.

A section that comes back as it was is a section like any other, and has no past. What is left undetected is a text that
is moved and reworded from the first sentence to the last in one build: that is a deleted one and a new one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from dlmbuild.io.digest import sha256_bytes, sha256_json

_SENTENCE_ENDS = re.compile(r"(?<=[.!?])\s+|\n+")
_TELLING = 4
"""Words that a sentence or an answer has at least to count: "Yes." is said in many places."""

Parts = Mapping[str, Collection[str]]
"""Section → digests of its parts."""


def taught(sections: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What sections (as in document.json) teach by rows: prose, and questions without the probes."""
    found: list[dict[str, Any]] = []
    for section in sections:
        if section["type"] == "prose":
            found.append({"type": "prose", "text": section["text"]})
        elif section["type"] == "instruction":
            pairs = [
                {"question": pair["question"], "answer": pair["answer"]}
                for pair in section["pairs"]
                if not pair.get("probe")
            ]
            if pairs:
                found.append({"type": "instruction", "pairs": pairs})
    return found


def name_of(section: Mapping[str, Any]) -> str:
    """16 hex digits over what a section teaches."""
    return sha256_json(section)[:16]


def parts_of(section: Mapping[str, Any]) -> set[str]:
    """Digests of what a section says, in whatever case and white space: questions, telling answers and sentences."""
    said: list[str] = []
    if section["type"] == "prose":
        said = [text for text in _SENTENCE_ENDS.split(section["text"]) if tells(text)] or [section["text"]]
    elif section["type"] == "instruction":
        for pair in section["pairs"]:
            said += [pair["question"], *([pair["answer"]] if tells(pair["answer"]) else [])]
    return {sha256_bytes(" ".join(text.split()).casefold().encode())[:16] for text in said}


def said_by(sections: Iterable[Mapping[str, Any]]) -> set[str]:
    """Digests of all that a document's sections say, what is held out or asked as a probe among it."""
    return set().union(*map(parts_of, sections))


@dataclass(frozen=True)
class State:
    """What is known of one adapter after some versions of its document were trained."""

    versions: int = 0
    """How many. A build that trains what the last one trained is no new one."""
    present: Sequence[str] = ()
    """The sections of the last version, in their order."""
    deleted: Mapping[str, int] = field(default_factory=dict)
    """Section → the last version that had it."""

    def after(self, present: Sequence[str], said: Collection[str], parts: Parts) -> State:
        """The state once a version with the sections `present` is trained, of a document that says `said`.

        `parts` are those of the sections of this version and of all before. The same version once more changes nothing.
        """
        versions, deleted = self.versions, dict(self.deleted)
        if list(present) != list(self.present):
            versions += 1
            deleted |= dict.fromkeys(_left_out(self.present, present, parts), self.versions)
        here = {*present}
        still = {
            name: last for name, last in deleted.items() if name not in here and not {*parts[name]}.intersection(said)
        }
        return State(versions, list(present), still)

    @property
    def ages(self) -> dict[str, int]:
        """The deleted sections, each with how many versions ago it was trained last: 1, 2, …"""
        return {name: self.versions - last for name, last in sorted(self.deleted.items())}


def _left_out(before: Sequence[str], after: Sequence[str], parts: Parts) -> list[str]:
    """The sections that are gone, without those in whose place stands something new that none of them explains."""
    left: list[str] = []
    for _, start, end, new_start, new_end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        gone = before[start:end]
        new = {*after[new_start:new_end]} - {*before}
        said = set().union(*(parts[name] for name in gone))
        if not any(said.isdisjoint(parts[name]) for name in new):
            left += gone
    return left


def tells(text: str) -> bool:
    """Whether a text says enough to be known again."""
    return len(text.split()) >= _TELLING
