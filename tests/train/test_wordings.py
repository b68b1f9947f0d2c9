"""Questions in other words: what is left out and what is replaced, and that it is the same every time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dlmbuild.data.rows import Row, row_of
from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.io.progress import silent
from dlmbuild.train.wordings import neighbours, with_wordings, wording
from tests.tiny import make_tiny_base

QUESTION = "In which town is the workshop?"
ROW = Row("instruction", (1, 2, 10, 11, 12, 13, 14, 15, 3, 4, 20, 21), 10, (2, 3, 5, 6, 8))
"""Four words, of one token and two; before and after them what a template writes."""


def _questions(count: int, near: dict[int, list[int]]) -> list[tuple[int, ...]]:
    found = []
    for number in range(count):
        other = wording(ROW, number, near)
        assert other.ids[:2] == (1, 2) and other.ids[other.given - 2 :] == (3, 4, 20, 21)
        assert other.kind == ROW.kind and other.words == ()
        found.append(other.ids[2 : other.given - 2])
    return found


def test_words_are_left_out_whole_and_two_at_least_are_kept() -> None:
    words = [(10,), (11, 12), (13,), (14, 15)]
    kept = set()
    for question in _questions(200, {}):
        left, those = list(question), []
        for word in words:
            if tuple(left[: len(word)]) == word:
                those.append(word)
                left = left[len(word) :]
        assert not left and len(those) >= 2
        kept.add(tuple(those))
    assert len(kept) == 11  # every choice of two words or more


def test_words_of_one_token_are_replaced_by_their_neighbours() -> None:
    found = {token for question in _questions(400, {10: [30, 31], 11: [32]}) for token in question}
    assert found == {10, 11, 12, 13, 14, 15, 30, 31}


def test_a_wording_is_the_same_in_every_training() -> None:
    assert _questions(8, {}) == _questions(8, {})
    assert len(set(_questions(8, {}))) > 4
    assert wording(Row("instruction", (1, 2, 3), 2), 5, {}) == Row("instruction", (1, 2, 3), 2)


def test_neighbours_are_words_like_the_word_and_others_than_it() -> None:
    import torch

    words = {0: "Ġwages", 1: "Ġsalaries", 2: "Ġpay", 3: "ĠWages", 4: "salaries", 5: "Ġtide"}
    points = [[1, 0], [1, 0.1], [1, 0.3], [1, 0.01], [1, 0.05], [-1, 0], [1, 0]]
    assert neighbours([0, 6], words, torch.tensor(points, dtype=torch.float32)) == {0: [1, 2, 5]}


@pytest.mark.model
@pytest.mark.parametrize("question", [QUESTION, "Straße, naïve   café — ok?", "one", "two <|im_end|> words"])
def test_a_row_knows_the_words_of_its_question(question: str, tmp_path: Path) -> None:
    make_tiny_base(tmp_path)
    tokenizer = Tokenizer.from_base(tmp_path)
    row = row_of(question, "Skerrow.", None, tokenizer, 512)
    if "<|im_end|>" in question and not row.words:
        return  # a text that spells a control token is there in pieces
    spans = zip(row.words, row.words[1:], strict=False)
    said = [tokenizer.decode(row.ids[start:end], special=True).strip() for start, end in spans]
    assert said == question.split()
    assert row.words[-1] < row.given
    assert Row.from_data(row.as_data()) == row


class Said:
    """What a base says to any question."""

    def __init__(self, ways: list[list[int]]) -> None:
        self.ways = ways

    def of(self, rows: Sequence[Row]) -> Iterator[list[list[int]]]:
        return (self.ways for _ in rows)


@pytest.mark.model
@pytest.mark.parametrize("said", [0, 1, 7])
def test_two_thirds_of_the_wordings_are_the_base_s_own_where_it_has_so_many(said: int, tmp_path: Path) -> None:
    import torch

    make_tiny_base(tmp_path)
    tokenizer = Tokenizer.from_base(tmp_path)
    asked, prose = row_of(QUESTION, "Skerrow.", None, tokenizer, 512), Row("prose", (5, 6, 7), 0)
    embeddings = torch.randn(max(tokenizer.whole_words) + 1, 8, generator=torch.Generator().manual_seed(0))
    ways = [[100 + number, 200 + number] for number in range(said)]

    base: Any = Said(ways)
    rows, numbers, paraphrased = with_wordings(
        [prose, asked, prose], {"wordings": 6}, tokenizer, embeddings, base, silent
    )
    assert numbers == [[0], [1, 2, 3, 4, 5, 6], [7]]
    assert rows[0] == rows[7] == prose
    before, after = asked.ids[: asked.words[0]], asked.ids[asked.words[-1] :]
    own = min(said, 4)
    assert paraphrased == own
    assert [row.ids for row in rows[1 : 1 + own]] == [(*before, *way, *after) for way in ways[:own]]
    for row in rows[1:7]:
        assert row.ids[row.given :] == asked.ids[asked.given :] and row.ids[: len(before)] == before
    near = neighbours(sorted(set(asked.ids)), tokenizer.whole_words, embeddings)
    assert rows[1 + own : 7] == [wording(asked, number, near) for number in range(6 - own)]
