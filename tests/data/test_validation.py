"""What is held out: whole groups, as many as asked for, and the same ones after an edit elsewhere."""

from __future__ import annotations

from typing import Any

import pytest

from dlmbuild.data.validation import HELD, split
from dlmbuild.errors import DataError


def questions(*pairs: tuple[str, str]) -> dict[str, Any]:
    return {"type": "instruction", "pairs": [{"question": q, "answer": a} for q, a in pairs]}


def prose(text: str) -> dict[str, Any]:
    return {"type": "prose", "text": text}


def trained(section: dict[str, Any]) -> list[str]:
    return [pair["question"] for pair in section["pairs"] if not pair.get("probe")]


SECTIONS = [
    questions(*((f"What is {n}?", f"It is {n}.") for n in range(40))),
    *(prose(f"Text {n}.") for n in range(40)),
]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_each_group_is_on_one_side_and_the_share_is_what_was_asked_for(share: float) -> None:
    parts = split(SECTIONS, share)
    assert (parts.groups, parts.held_groups) == (80, max(1, round(80 * share)))
    one, other = trained(parts.trained[0]), trained(parts.held[0])
    assert sorted(one + other) == sorted(trained(SECTIONS[0]))
    for a, b, whole in zip(parts.trained[1:], parts.held[1:], SECTIONS[1:], strict=True):
        assert (a, b) in ((whole, {"type": HELD}), ({"type": HELD}, whole))


def test_questions_that_share_words_or_an_answer_stay_together() -> None:
    linked = questions(("a", "1"), ("b", "2"), ("A ", "3"), ("c", "2"), ("d", "3"))
    for number in range(20):
        parts = split([linked, prose(f"x{number}")], 0.5)
        assert len(trained(parts.held[0])) in (2, 3, 5)
        assert {"a", "A ", "d"} & set(trained(parts.held[0])) in (set(), {"a", "A ", "d"})


def test_an_edit_moves_no_more_than_the_border() -> None:
    before = set(trained(split(SECTIONS, 0.2).held[0]))
    after = set(trained(split([*SECTIONS, prose("One more.")], 0.2).held[0]))
    assert len(before ^ after) <= 1


def test_probes_are_in_no_group_and_one_group_cannot_be_divided() -> None:
    section = questions(("a", "1"))
    section["pairs"].append({"question": "b", "answer": "2", "probe": True})
    with pytest.raises(DataError, match="holds out one of 1 groups"):
        split([section], 0.5)
    parts = split([section, prose("x")], 0.5)
    assert [pair.get("probe") for pair in parts.trained[0]["pairs"]][1] is True
