"""Which of a document's content is held out of training, to see after each epoch what is learned beyond the words.

What belongs together stays together: a section of prose is one group, and so are all questions that share their words
or their answer. A fact that is held out is then in no trained question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from dlmbuild.data.rows import contents
from dlmbuild.errors import DataError
from dlmbuild.io.digest import sha256_json

HELD = "held out"
"""The type that a section has where it is left out: the others keep their numbers."""


class Split(NamedTuple):
    """A document's sections (as in document.json) twice: what is trained, and what is held out."""

    trained: list[dict[str, Any]]
    held: list[dict[str, Any]]
    groups: int
    held_groups: int


def split(sections: Sequence[dict[str, Any]], share: float) -> Split:
    """Hold out about `share` of the groups, at least one: those with the least digests, so that few edits move any.

    Raises DataError where nothing would be left to train.
    """
    groups = _groups(sections)
    names = sorted(set(groups.values()))
    held = set(names[: max(1, round(share * len(names)))])
    if len(names) < 2:
        raise DataError(
            f"training.validation holds out one of {len(names)} groups of content, and nothing is left to train",
            why="a section of prose is one group, and so are questions with one answer; sources are always trained",
            do="write another section or question, or delete training.validation",
        )

    def part(wanted: bool) -> list[dict[str, Any]]:
        return [_only(section, at, groups, held, wanted) for at, section in enumerate(sections)]

    return Split(part(False), part(True), len(names), len(held))


def normal(text: str) -> str:
    """A text as it is compared: in whatever case and white space."""
    return " ".join(text.split()).casefold()


def texts(sections: Sequence[dict[str, Any]]) -> set[str]:
    """All that sections say in rows, each text as `normal` has it: of `Split.held` all that is held out."""
    return {normal(text) for _, said in contents(sections) for text in said}


def _groups(sections: Sequence[dict[str, Any]]) -> dict[tuple[int, int], str]:
    """(section, pair), or (section, 0) of prose → the name of its group, a digest of what the group says."""
    first: dict[str, int] = {}
    leader: list[int] = []
    places: list[tuple[int, int]] = []

    def root(at: int) -> int:
        while leader[at] != at:
            at = leader[at]
        return at

    said: list[tuple[str, ...]] = []
    for place, texts in contents(sections):
        here = len(places)
        places.append(place)
        leader.append(here)
        said.append(texts)
        for text in texts:
            other = root(first.setdefault(normal(text), here))
            mine = root(here)
            leader[max(mine, other)] = min(mine, other)
    members: dict[int, list[tuple[str, ...]]] = {}
    for at, texts in enumerate(said):
        members.setdefault(root(at), []).append(texts)
    names = {at: sha256_json(sorted(texts)) for at, texts in members.items()}
    return {place: names[root(at)] for at, place in enumerate(places)}


def _only(
    section: dict[str, Any], at: int, groups: dict[tuple[int, int], str], held: set[str], wanted: bool
) -> dict[str, Any]:
    if section["type"] == "prose":
        return section if (groups[at, 0] in held) == wanted else {"type": HELD}
    if section["type"] == "instruction":
        pairs = [
            pair if pair.get("probe") or (groups[at, number] in held) == wanted else {**pair, "probe": True}
            for number, pair in enumerate(section["pairs"])
        ]
        return {**section, "pairs": pairs}
    return section
