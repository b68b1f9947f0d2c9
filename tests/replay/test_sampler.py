"""The draw is fixed by text and age: it fades, and never flickers."""

from __future__ import annotations

from hashlib import sha256
from itertools import pairwise

from dlmbuild.replay.sampler import HALF_LIFE, most, sample

ROWS = [sha256(str(number).encode()).hexdigest()[:16] for number in range(400)]


def test_what_the_version_before_had_is_all_there_and_each_half_life_takes_half() -> None:
    kept = [sample([(row, age) for row in ROWS], 400) for age in range(1, 60)]
    assert len(kept[0]) == 400
    assert 160 < len(kept[HALF_LIFE]) < 240 and 70 < len(kept[2 * HALF_LIFE]) < 130 and not kept[-1]
    assert all(set(later) <= set(earlier) for earlier, later in pairwise(kept))


def test_of_too_many_those_of_late_are_likelier() -> None:
    ages = [1 if number % 2 else 1 + 2 * HALF_LIFE for number in range(400)]
    drawn = sample(list(zip(ROWS, ages, strict=True)), 50)
    assert len(drawn) == 50 and sum(ages[at] == 1 for at in drawn) > 35
    assert drawn == sample(list(zip(ROWS, ages, strict=True)), 50)


def test_a_share_is_rounded_up_and_no_further() -> None:
    assert [most(0.1, rows) for rows in (0, 1, 10, 11, 30)] == [0, 1, 1, 2, 3]
