"""Questions as a base puts them: many answers at once are those that it gives one by one, and they are kept."""

from __future__ import annotations

from pathlib import Path
from threading import Barrier, get_ident
from typing import Any

import pytest

from dlmbuild.data.rows import Row, row_of
from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.train import paraphrases
from dlmbuild.train.kept import Kept
from dlmbuild.train.model import PLAIN, load_base
from dlmbuild.train.packing import Packing
from dlmbuild.train.paraphrases import Paraphrases
from tests.tiny import make_tiny_base

pytestmark = pytest.mark.model


class Shop:
    def __init__(self, folder: Path, **plan: Any) -> None:
        make_tiny_base(folder / "base")
        self.tokenizer = Tokenizer.from_base(folder / "base")
        self.model = load_base(folder / "base", {**PLAIN, **plan}, self.tokenizer.pad_id)
        self.packing = Packing(self.model)

    def row(self, question: str) -> Row:
        return row_of(question, "Skerrow.", None, self.tokenizer, 512)

    def says(self, kept: Kept | None = None) -> Paraphrases:
        return Paraphrases(self.model, self.tokenizer, self.packing, {}, kept or Kept(None))

    def one_by_one(self, question: str) -> list[str]:
        """The same texts, each token from the whole text before it, without anything kept or masked."""
        import torch

        shown = "".join(f"{paraphrases._ASKED.format(one)} {other}\n" for one, other in paraphrases._SHOWN)
        given = self.tokenizer.encode(paraphrases._ASKED.format(question))
        before = [*self.tokenizer.encode(shown), *given]
        chance = torch.Generator().manual_seed(paraphrases._SEED)
        said: list[list[int]] = [[] for _ in range(paraphrases._BRANCHES)]
        going, texts = list(range(len(said))), [""] * len(said)
        for _ in range(len(given) + paraphrases._MORE):
            ids = [torch.tensor([[*before, *said[branch]]]) for branch in going]
            with torch.no_grad():
                logits = torch.cat([self.model(input_ids=one).logits[:, -1] for one in ids])
            for branch, token in zip(going, paraphrases._drawn(logits, chance), strict=True):
                said[branch].append(token)
                texts[branch] = self.tokenizer.decode(said[branch])
            going = [b for b in going if not ({"\n", "?"} & set(texts[b]) or said[b][-1] in self.tokenizer.stop_ids)]
            if len(going) <= paraphrases._LAST:
                break
        lines = [text.split("\n")[0].strip() for branch, text in enumerate(texts) if branch not in going]
        return [line[: line.index("?") + 1] for line in lines if "?" in line]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_branches_of_one_sequence_say_what_each_would_say_alone(attention: str, tmp_path: Path) -> None:
    shop = Shop(tmp_path, attention=attention)
    says = shop.says()
    for question in ("Who has the keys?", "In which town is the workshop?"):
        assert says._said(question) == shop.one_by_one(question)


def test_what_was_said_is_kept_and_does_not_depend_on_what_was_asked_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = Shop(tmp_path)
    monkeypatch.setattr(paraphrases, "_MORE", 40)  # a model that knows nothing ends no sentence soon
    rows = [shop.row("Who has the keys?"), shop.row("In which town is the workshop?")]
    together, kept = shop.says(), Kept(tmp_path / "kept")
    first = [*together.of(rows)]
    assert [*shop.says(kept).of(reversed(rows))] == first[::-1]
    again = shop.says(kept)
    monkeypatch.setattr(again, "_said", None)
    assert [*again.of(rows)] == first
    for row, ways in zip(rows, first, strict=True):
        assert len({tuple(way) for way in ways}) == len(ways)
        assert list(row.ids[row.words[0] : row.words[-1]]) not in ways
    for damaged in (tmp_path / "kept").glob("*/*"):
        damaged.write_bytes(b"[]")
    assert [*shop.says(kept).of(rows)] == first


@pytest.mark.parametrize("question", ["One line\nand another?", "long " * 60 + "?"])
def test_a_question_of_several_lines_or_many_words_is_left_as_it_is(question: str, tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    says = shop.says()
    says._said = None  # type: ignore[method-assign,assignment]
    assert [*says.of([shop.row(question), Row("instruction", (1, 2, 3), 2)])] == [[], []]


def test_a_model_that_takes_no_mask_of_a_tree_is_not_asked(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.packing.shares = False
    assert [*shop.says().of([shop.row("Who has the keys?")])] == [[]]


def test_several_threads_ask_at_once_and_hear_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    shop = Shop(tmp_path)
    monkeypatch.setattr(paraphrases, "_MORE", 40)
    rows = [shop.row(f"{word} has the keys?") for word in ("Who", "Which person", "Does anyone", "Why he who")]
    heard, asking, together = [], set(), Barrier(2, timeout=60)

    def waits(said: Any) -> Any:
        def asked(question: str) -> Any:
            asking.add(get_ident())
            together.wait()
            return said(question)

        return asked

    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            says = shop.says()
            if count == 2:
                monkeypatch.setattr(says, "_said", waits(says._said))
            heard.append([*says.of(rows)])
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert heard[0] == heard[1] and any(heard[0])
    assert len(asking) == 2
