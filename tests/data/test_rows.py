from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from dlmbuild.data.rows import Row, RowTooLongError, conversation, rows_of
from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.errors import DataError
from tests.tiny import SPECIALS

START, END = SPECIALS[1:]
TEXT = (
    "# The lighthouse\n\nThe lighthouse was built of grey granite.\n\n\n\nShips wait.  \n\n"
    + "Every evening the keeper climbs two hundred and twelve steps, and trims the lamp. " * 6
    + "\n\n- ä\n- 漢字\n\n    code = 1\n"
)


def questions(*pairs: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"type": "instruction", "pairs": [{"question": q, "answer": a, **more} for q, a in pairs]}


def prose(text: str) -> dict[str, Any]:
    return {"type": "prose", "text": text}


def rows(
    sections: list[dict[str, Any]],
    tokenizer: Tokenizer,
    limit: int = 512,
    system: str | None = None,
    longest: int | None = None,
) -> list[Row]:
    return list(rows_of(sections, system, tokenizer, limit, longest))


def test_a_conversation() -> None:
    user = {"role": "user", "content": "Q"}
    assert conversation("Q", None, None) == [user]
    assert conversation("Q", None, "") == [user]
    assert conversation("Q", "A", "S") == [
        {"role": "system", "content": "S"},
        user,
        {"role": "assistant", "content": "A"},
    ]
    assert conversation("Q", "", None)[-1] == {"role": "assistant", "content": ""}


def test_only_the_answer_and_the_end_of_its_turn_are_learned(tokenizer: Tokenizer) -> None:
    [row] = rows([questions(("Who trims the lamp?", "The keeper."))], tokenizer, system="Be brief.")
    assert row.kind == "instruction"
    assert tokenizer.decode(row.ids[row.given :], special=True) == f"The keeper.{END}"
    assert tokenizer.decode(row.ids[: row.given], special=True) == (
        f"{START}system\nBe brief.{END}\n{START}user\nWho trims the lamp?{END}\n{START}assistant\n"
    )
    assert row.ids[-1] in tokenizer.turn_end_ids


def test_what_is_given_is_what_the_model_will_be_asked(tokenizer: Tokenizer) -> None:
    """The cut is between tokens: asked later, the question has the very ids that it was trained with."""
    for answer in ("The keeper.", "\n\nIndented", " x", "", "assistant"):
        [row] = rows([questions(("Who?", answer))], tokenizer)
        asked = tokenizer.template.render(conversation("Who?", None, None), ask=True)
        assert list(row.ids[: row.given]) == tokenizer.encode(asked, control=True)
        assert list(row.ids[: row.given]) == tokenizer.encode_pieces(
            tokenizer.question(conversation("Who?", None, None))
        )
        assert tokenizer.decode(row.ids[row.given :], special=True) == answer + END


def test_rows_in_the_order_of_the_document(tokenizer: Tokenizer) -> None:
    sections = [prose("One."), questions(("A?", "a"), ("B?", "b")), prose("Two.")]
    assert [row.kind for row in rows(sections, tokenizer)] == ["prose", "instruction", "instruction", "prose"]


def test_probes_and_preferences_give_no_rows(tokenizer: Tokenizer) -> None:
    triples = [{"prompt": "p", "chosen": "c", "rejected": "r"}]
    sections = [questions(("A?", "a"), probe=True), {"type": "preference", "triples": triples}]
    assert rows(sections, tokenizer) == []
    assert len(rows([questions(("A?", "a"), probe=False)], tokenizer)) == 1


@pytest.mark.parametrize("limit", [8, 16, 64, 100, 4096])
def test_no_token_of_prose_is_lost_and_none_is_learned_twice(tokenizer: Tokenizer, limit: int) -> None:
    found = rows([prose(TEXT)], tokenizer, limit)
    assert all(row.kind == "prose" and row.given == 0 and 1 <= len(row.ids) <= limit for row in found)
    ids = [token for row in found for token in row.ids]
    assert ids.pop() == tokenizer.eos_id  # at the end of the text, and nowhere else
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode(ids, special=True) == TEXT


def test_prose_is_divided_between_paragraphs_where_that_is_possible(tokenizer: Tokenizer) -> None:
    text = "\n\n".join(f"Ships wait until the wind turns {number}." for number in range(20))
    found = rows([prose(text)], tokenizer, 64)
    assert len(found) > 2
    for row in found[1:]:
        assert tokenizer.decode(row.ids).startswith("\n\nShips wait")
    assert all(len(a.ids) + len(b.ids) > 64 for a, b in itertools.pairwise(found))


def test_text_that_just_fits(tokenizer: Tokenizer) -> None:
    length = len(tokenizer.encode("Ships wait.")) + 1
    assert [len(row.ids) for row in rows([prose("Ships wait.")], tokenizer, length)] == [length]
    assert [len(row.ids) for row in rows([prose("Ships wait.")], tokenizer, length - 1)] == [length - 1, 1]


def test_an_answer_that_does_not_fit_is_refused_with_its_place(tokenizer: Tokenizer) -> None:
    long = "The keeper climbs. " * 40
    sections = [prose("One."), questions(("A?", "a"), ("B?", long)), questions(("C?", long))]
    needed = len(rows([questions(("B?", long))], tokenizer, 4096)[0].ids)
    with pytest.raises(RowTooLongError) as caught:
        rows(sections, tokenizer, needed - 1, longest=4096)
    assert (caught.value.section, caught.value.pair) == (1, 1)
    assert isinstance(caught.value, DataError)
    assert f"{needed} tokens long, and a row holds {needed - 1}" in caught.value.what
    assert f"training.sequence_len to {needed}" in caught.value.do
    assert len(rows(sections, tokenizer, needed)) == 4


def test_the_digest_names_what_is_trained() -> None:
    row = Row("instruction", (1, 2, 3), 1)
    others = [Row("prose", (1, 2, 3), 1), Row("instruction", (1, 2, 4), 1), Row("instruction", (1, 2, 3), 2)]
    assert len({row.digest, *(other.digest for other in others)}) == 4
    assert Row("instruction", (1, 2, 3), 1).digest == row.digest
    assert row.as_data() == {"row": row.digest, "kind": "instruction", "ids": [1, 2, 3], "given": 1}


def test_a_system_prompt_is_part_of_every_question_and_of_no_prose(tokenizer: Tokenizer, base: Path) -> None:
    sections = [prose("One."), questions(("A?", "a"))]
    without, with_prompt = rows(sections, tokenizer), rows(sections, tokenizer, system="Be brief.")
    assert without[0] == with_prompt[0]
    assert without[1] != with_prompt[1]


@pytest.mark.parametrize("unit", ["word and word, ", "line\n", "3.14 and\n\tb  c\n", "漢字。", "x"])
def test_a_paragraph_of_any_length_is_encoded_piece_by_piece(tokenizer: Tokenizer, unit: str) -> None:
    text = unit * (100_000 // len(unit))
    found = [token for row in rows([prose(text)], tokenizer, 512) for token in row.ids]
    assert found.pop() == tokenizer.eos_id
    assert tokenizer.decode(found, special=True) == text
    if any(char.isspace() for char in unit):  # cut where no token goes over the cut
        assert found == tokenizer.encode(text)


def test_a_question_that_is_far_too_long_is_refused_without_being_encoded(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tokenizer, "encode", None)
    monkeypatch.setattr(Tokenizer, "answer", None)
    with pytest.raises(RowTooLongError, match=r"at least \d+ tokens long, and a row holds 512") as caught:
        rows([questions(("q" * 1_000_000, "a"))], tokenizer, 512, longest=2048)
    assert caught.value.part == "question"
    assert caught.value.do == "shorten the question; training.sequence_len can be 2048 at most on this base"
    counts = re.search(r"of these tokens: question at least (\d+), answer at least 1$", caught.value.why)
    assert counts and f"at least {int(counts[1]) + 1} tokens long" in caught.value.what


@pytest.mark.parametrize("times", [40, 1_000_000])
def test_what_is_about_as_long_is_blamed_as_well(tokenizer: Tokenizer, times: int) -> None:
    long, nearly, both = "x" * times * 10, "x" * times * 9, "shorten the question or the answer"
    for texts in ((long, long), (nearly, long), (long, nearly)):
        with pytest.raises(RowTooLongError) as caught:
            rows([questions(texts)], tokenizer, 64)
        assert caught.value.do == both
        assert caught.value.why.count("at least ") == (2 if times > 40 else 0)
    with pytest.raises(RowTooLongError) as caught:
        rows([questions((long, long))], tokenizer, 64, system=long)
    assert caught.value.do == "shorten the question or the answer or system_prompt, which stands before every question"


@pytest.mark.parametrize("part", ["question", "answer", "system_prompt"])
def test_what_is_long_is_blamed_and_no_impossible_length_advised(tokenizer: Tokenizer, part: str) -> None:
    texts = {"question": "Who?", "answer": "The keeper.", "system_prompt": "Be brief."}
    texts[part] = "The keeper climbs. " * 40
    sections = [questions((texts["question"], texts["answer"]))]
    length = len(rows(sections, tokenizer, 4096, texts["system_prompt"])[0].ids)

    def refusal(longest: int) -> RowTooLongError:
        with pytest.raises(RowTooLongError) as caught:
            rows(sections, tokenizer, 64, texts["system_prompt"], longest)
        return caught.value

    counts = {name: len(tokenizer.encode(text)) for name, text in texts.items()}
    assert refusal(length).part == part
    assert refusal(length).why.endswith(
        f"question {counts['question']}, answer {counts['answer']}, system prompt {counts['system_prompt']}"
    )
    assert refusal(length).do.startswith(f"shorten {'' if part == 'system_prompt' else 'the '}{part}")
    assert refusal(length).do.endswith(f", or set training.sequence_len to {length} or more")
    assert refusal(length - 1).do.endswith(f"; training.sequence_len can be {length - 1} at most on this base")
    assert "sequence_len" not in refusal(64).do


def test_a_long_line_is_cut_in_time_that_grows_with_its_length() -> None:
    from dlmbuild.data.rows import _stretches

    class Counting(str):
        seen = 0

        def find(self, *words: Any) -> int:
            begin, end = (words[1], words[2] if len(words) > 2 else len(self))
            Counting.seen += min(end, len(self)) - begin
            return super().find(*words)

    text = Counting("word " * 200_000)
    assert "".join(piece for piece, _ in _stretches(text)) == text
    assert Counting.seen < 3 * len(text)
