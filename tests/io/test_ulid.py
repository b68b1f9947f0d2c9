from __future__ import annotations

import time

import pytest

from dlmbuild.io.ulid import ALPHABET, is_ulid, new_ulid


def test_new_ones_are_ulids_and_differ() -> None:
    ulids = {new_ulid() for _ in range(1000)}
    assert len(ulids) == 1000
    assert all(is_ulid(ulid) for ulid in ulids)


def test_begins_with_the_time() -> None:
    before = time.time_ns() // 1_000_000
    head = new_ulid()[:10]
    after = time.time_ns() // 1_000_000
    assert before <= sum(ALPHABET.index(c) << 5 * (9 - i) for i, c in enumerate(head)) <= after


@pytest.mark.parametrize("text", ["0" * 26, "7" + "Z" * 25, "01HZX3Q5J8K9M2N4P6R8T0V2W4"])
def test_ulids(text: str) -> None:
    assert is_ulid(text)


@pytest.mark.parametrize(
    "text",
    ["", "8" + "0" * 25, "7" * 25, "7" * 27, "01hzx3q5j8k9m2n4p6r8t0v2w4", "0" * 26 + "\n", "٠" * 26]
    + ["0" * 25 + letter for letter in "ILOU-"],
)
def test_not_ulids(text: str) -> None:
    assert not is_ulid(text)
