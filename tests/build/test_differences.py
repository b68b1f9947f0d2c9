from __future__ import annotations

from typing import Any

import pytest

from dlmbuild.build.differences import differences


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"training": {"seed": 42}}, {"training": {"seed": 43}}, ["training.seed: 42 → 43"]),
        ({"seed": 1}, {"seed": True}, ["seed: 1 → true"]),
        ({"a": 1}, {"b": None}, ["a is gone (was 1)", "b is new: null"]),
        ({"sha": "0" * 64}, {"sha": "1" * 64}, ["sha changed"]),
        (
            {"s": [{"question": "Who has it?", "answer": "M."}]},
            {"s": [{"question": "Who has it?", "answer": "N."}]},
            ['s[0].answer: "M." → "N."'],
        ),
        ({"s": ["a", "b", "c"]}, {"s": ["a", "c", "d"]}, ['s[1] is gone (was "b")', 's[2] is new: "d"']),
        (
            {"text": "x" * 100 + " in fog, every day"},
            {"text": "x" * 100 + " at noon, every day"},
            ['text: "…xxxxxxxxxxxxxx in fog, every day" → "…xxxxxxxxxxxxxx at noon, every day"'],
        ),
    ],
)
def test_differences_are_told_one_by_one(old: Any, new: Any, lines: list[str]) -> None:
    assert list(differences(old, new)) == lines
