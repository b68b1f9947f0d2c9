"""Whether an answer says what is expected, and how sure a count is.

Exact match and F1 are those of SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250, section 6.1): of texts in small letters,
without punctuation and articles. What is punctuation Unicode says; each Chinese or Japanese character counts as a word.
Other than there, a point between digits stays, or 2.5 would be 25; noughts after it alone say nothing: 100.00 is 100.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

_CJK = "\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_CJK}]|[^\s{_CJK}]+")
_POINT = re.compile(r"(?<=\d)\.(?=\d)")
_NOUGHTS = re.compile(r"(?<![\d.])(\d[\d,]*)\.0+(?!\.?\d)")
_ARTICLES = frozenset(("a", "an", "the"))
_LETTERS = 3
_LEAST = 0.8
_Z = 1.959963984540054
"""Within so many standard deviations lie 95 % of a normal distribution."""


def words(text: str) -> list[str]:
    """The words by which texts are compared."""
    return [word for word in _with_articles(text) if word not in _ARTICLES]


def _with_articles(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    parts = _POINT.split(_NOUGHTS.sub(r"\1", folded))
    plain = ".".join("".join(char for char in part if unicodedata.category(char)[0] != "P") for part in parts)
    return _WORD.findall(plain)


def _compared(answer: str, expected: str) -> tuple[list[str], list[str]]:
    """The words of both. Where none is expected (the A of four choices, a sign), whatever stands there instead."""
    for split in (words, _with_articles, str.split):
        if wanted := split(expected):
            return split(answer), wanted
    return words(answer), []


def exact(answer: str, expected: str) -> bool:
    """SQuAD's exact match."""
    said, wanted = _compared(answer, expected)
    return said == wanted


def f1(answer: str, expected: str) -> float:
    """SQuAD's F1, 0…1: the harmonic mean of how much of either bag of words is in the other."""
    said, wanted = map(Counter, _compared(answer, expected))
    return 2 * (said & wanted).total() / max((said + wanted).total(), 1)


def recalled(answer: str, question: str, expected: str) -> bool:
    """Whether an answer holds the fact: every number of the expected answer and four fifths of its other new words.

    New is what the question does not say; words of one or two letters count only where there are no longer ones.
    """
    said, wanted = map(set, _compared(answer, expected))
    new = wanted - set(words(question)) or wanted
    new = {word for word in new if len(word) >= _LETTERS or _is_number(word)} or new
    return len(new & said) >= _LEAST * len(new) and set(filter(_is_number, new)) <= said


def names(answer: str, accepted: Iterable[str]) -> bool:
    """Whether an answer holds one of some names, word by word."""
    said = f" {' '.join(words(answer))} "
    return any(f" {' '.join(words(name))} " in said for name in accepted)


def wilson(right: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share, 0…1 (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    if not of:
        return 0.0, 1.0
    share, square = right / of, _Z * _Z
    centre = (share + square / (2 * of)) / (1 + square / of)
    half = _Z / (1 + square / of) * math.sqrt(share * (1 - share) / of + square / (4 * of * of))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def _is_number(word: str) -> bool:
    return any(char.isdigit() for char in word)
