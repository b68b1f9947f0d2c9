"""Which rows of deleted sections are replayed: by chance that their own text decides, less and less with age.

There is no clock and no state. A row's number is a part of its digest, so each row has a fixed end: as its section
ages, its weight falls below that number, and the row stays away. Of more rows than asked for those are taken that a
weighted draw without replacement takes (Efraimidis and Spirakis 2006, Information Processing Letters 97).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

HALF_LIFE = 4
"""Versions of the document until half of a deleted section's rows are no longer replayed."""


def weight(age: int) -> float:
    """1 for what the version before had, half of that `HALF_LIFE` versions later."""
    return math.pow(0.5, (age - 1) / HALF_LIFE)


def most(share: float, rows: int) -> int:
    """How many rows may be replayed beside `rows` of the document: at most `share` of their number, rounded up."""
    return math.ceil(Fraction(str(share)) * rows)


def sample(rows: Sequence[tuple[str, int]], count: int) -> list[int]:
    """At most `count` of `rows`, each given as (16 hex digits of its own, its section's age): their places."""
    drawn = []
    for place, (digest, age) in enumerate(rows):
        chance = int(digest[:13], 16) / 2**52
        if chance < weight(age):
            drawn.append((-math.log1p(-chance) / weight(age), digest, place))
    return sorted(place for _, _, place in sorted(drawn)[:count])
