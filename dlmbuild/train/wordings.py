"""A question in other words: what is taught only in one wording is hardly known in another.

Each question goes into training in several wordings. Most are the base's own (paraphrases.py). In the others some words
are left out and some stand for others: those that the base's input embeddings have next to them ("salaries" for
"wages"). A row has the same ones in every training, so that what frozen layers give for them is kept. Leaving out and
replacing words at random: Wei and Zou 2019 (EDA, arXiv 1901.11196); neighbours among embeddings: Wang and Yang 2015
(doi 10.18653/v1/D15-1306).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from dlmbuild.data.rows import Row
from dlmbuild.data.tokenizer import SPACES, Tokenizer
from dlmbuild.io.digest import JSON
from dlmbuild.io.progress import Progress
from dlmbuild.train.paraphrases import Paraphrases

PARAPHRASING = "putting questions in other words"
"""Told with how many questions are done."""
PARAPHRASED = 2 / 3
"""Of the wordings of a question, where the base has so many for it."""

LEFT_OUT, REPLACED = 0.4, 0.1
"""Of the words of a question, and of what is left of them."""
_LEAST = 2
"""Words that a wording has, if the question has them."""
NEIGHBOURS = 5
_AT_ONCE = 4096
"""Rows of the embedding matrix."""


def wordings(kind: str, plan: Mapping[str, Any]) -> int:
    """In how many wordings a row of this kind is trained."""
    return int(plan["wordings"]) if kind == "instruction" else 1


class Wordings(NamedTuple):
    """What is trained of some rows."""

    rows: list[Row]
    numbers: list[list[int]]
    """Of each row as it was: those of its wordings."""
    paraphrased: int
    """How many of them are the base's own."""


def with_wordings(
    rows: Sequence[Row],
    plan: Mapping[str, Any],
    tokenizer: Tokenizer,
    embeddings: Any,
    paraphrases: Paraphrases,
    progress: Progress,
) -> Wordings:
    """The wordings of all rows. `embeddings` is the base's matrix of (vocabulary, width)."""
    asked = {row.ids[at] for row in rows for at, end in _words(row) if end == at + 1}
    near = neighbours(sorted(asked), tokenizer.whole_words, embeddings)
    questions = [row for row in rows if wordings(row.kind, plan) > 1]
    said: list[list[list[int]]] = []
    if questions:
        progress(PARAPHRASING, 0, len(questions))
    for ways in paraphrases.of(questions):
        said.append(ways)
        progress(PARAPHRASING, len(said), len(questions))
    found: list[Row] = []
    numbers = []
    paraphrased = 0
    answers = iter(said)
    for row in rows:
        own = [row]
        if (count := wordings(row.kind, plan)) > 1:
            own = [asked_as(row, way) for way in next(answers)[: int(PARAPHRASED * count)]]
            paraphrased += len(own)
            own += [wording(row, number, near) for number in range(count - len(own))]
        numbers.append(list(range(len(found), len(found) + len(own))))
        found += own
    return Wordings(found, numbers, paraphrased)


def as_data(asked: Sequence[Row], found: Wordings, tokenizer: Tokenizer) -> list[JSON]:
    """Each question of the rows that were `asked` for wordings, with those that are trained in its place, as texts."""
    told: list[JSON] = []
    for row, numbers in zip(asked, found.numbers, strict=True):
        if len(numbers) > 1:
            start, rest = row.words[0], len(row.ids) - row.words[-1]
            ways = [row.ids, *(found.rows[at].ids for at in numbers)]
            question, *others = (tokenizer.decode(list(ids[start : len(ids) - rest])).strip() for ids in ways)
            told.append({"question": question, "wordings": others})
    return told


def wording(row: Row, number: int, near: Mapping[int, Sequence[int]]) -> Row:
    """One of a row's wordings, a function of the row and the number; `near` are the tokens that may stand for one."""
    words = _words(row)
    if not words:
        return row
    chance = random.Random(f"{row.digest} {number}")
    kept = [at for at in range(len(words)) if chance.random() >= LEFT_OUT]
    if len(kept) < _LEAST:
        kept = sorted(chance.sample(range(len(words)), min(_LEAST, len(words))))
    question: list[int] = []
    for start, end in (words[at] for at in kept):
        others = near.get(row.ids[start], ()) if end == start + 1 else ()
        question += [chance.choice(others)] if others and chance.random() < REPLACED else row.ids[start:end]
    return asked_as(row, question)


def asked_as(row: Row, question: Sequence[int]) -> Row:
    """The row with another question: the tokens of that."""
    ids = (*row.ids[: row.words[0]], *question, *row.ids[row.words[-1] :])
    return replace(row, ids=ids, given=row.given + len(ids) - len(row.ids), words=())


def _words(row: Row) -> list[tuple[int, int]]:
    return list(zip(row.words, row.words[1:], strict=False))


def neighbours(tokens: Sequence[int], words: Mapping[int, str], embeddings: Any) -> dict[int, list[int]]:
    """The words of one token that are nearest to each of `tokens`, by the cosine of their embeddings.

    None for what is no word of letters. A word's neighbours have a space in front where it has one, and differ from it
    in more than capital letters.
    """
    import torch

    tokens = [token for token in tokens if token in words]
    if not tokens:
        return {}
    candidates = sorted(words)
    with torch.no_grad():
        unit = [
            torch.nn.functional.normalize(embeddings[torch.tensor(some, device=embeddings.device)].float(), dim=1).cpu()
            for some in (tokens, *(candidates[at : at + _AT_ONCE] for at in range(0, len(candidates), _AT_ONCE)))
        ]
        cosines = torch.cat([unit[0] @ others.T for others in unit[1:]], dim=1)
        # Enough to find some when the word itself in other letters is left out.
        best = cosines.topk(min(4 * NEIGHBOURS, len(candidates)), dim=1).indices.tolist()
    found = {}
    for token, near in zip(tokens, best, strict=True):
        alike = [candidates[at] for at in near if _may_stand_for(words[candidates[at]], words[token])]
        found[token] = alike[:NEIGHBOURS]
    return found


def _may_stand_for(other: str, word: str) -> bool:
    return other.startswith(SPACES) == word.startswith(SPACES) and other.casefold() != word.casefold()
