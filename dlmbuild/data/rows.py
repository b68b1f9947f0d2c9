"""Training rows: a document's sections as tokens, with the part of each row that is learned.

A question is given and its answer learned, up to and including the token that ends the turn. Prose is learned from the
first token to the last. Nothing is ever cut off: long prose is divided, an answer that does not fit is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.errors import DataError
from dlmbuild.io.digest import sha256_json


@dataclass(frozen=True, slots=True)
class Row:
    """One training example."""

    kind: str
    """"instruction" or "prose"."""
    ids: tuple[int, ...]
    given: int
    """How many tokens at the start are context only; the loss covers the rest."""

    @property
    def digest(self) -> str:
        """16 hex digits that name exactly what is trained."""
        return sha256_json([self.kind, self.ids, self.given])[:16]

    def as_data(self) -> dict[str, Any]:
        return {"row": self.digest, "kind": self.kind, "ids": list(self.ids), "given": self.given}


class RowTooLongError(DataError):
    """A question and answer that do not fit into a row; `section` and `pair` count from 0."""

    def __init__(self, section: int, pair: int, tokens: int, limit: int) -> None:
        self.section, self.pair = section, pair
        super().__init__(
            f"this question and its answer are {tokens} tokens long, and a row holds {limit}",
            why="cutting an answer off would teach the model to break off",
            do=f"shorten the answer, split it in two, or set training.sequence_len to {tokens} or more",
        )


def conversation(question: str, answer: str | None, system_prompt: str | None) -> list[dict[str, str]]:
    """The messages that a question becomes, in training, in `dlm prompt` and in the export's checks alike."""
    messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
    messages.append({"role": "user", "content": question})
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    return messages


def rows_of(
    sections: Sequence[dict[str, Any]], system_prompt: str | None, tokenizer: Tokenizer, sequence_len: int
) -> Iterator[Row]:
    """The rows of a document's sections (as in document.json), in their order.

    Preference sections give no rows here: they are for preference training. Probes are asked, never trained.
    """
    for number, section in enumerate(sections):
        if section["type"] == "instruction":
            for pair_number, pair in enumerate(section["pairs"]):
                if pair.get("probe"):
                    continue
                messages = conversation(pair["question"], pair["answer"], system_prompt)
                given, learned = map(tokenizer.encode, tokenizer.template.answer(messages))
                length = len(given) + len(learned)
                if length > sequence_len:
                    raise RowTooLongError(number, pair_number, length, sequence_len)
                yield Row("instruction", (*given, *learned), len(given))
        elif section["type"] == "prose":
            for ids in _divide(section["text"], tokenizer, sequence_len):
                yield Row("prose", tuple(ids), 0)


def _divide(text: str, tokenizer: Tokenizer, limit: int) -> Iterator[list[int]]:
    """Token lists of at most `limit`: as many whole paragraphs as fit, a paragraph that is too long in pieces.

    The end of the text, and only that, is marked with the end-of-text token.
    """
    paragraphs = [tokenizer.encode(p) for p in _paragraphs(text)]
    paragraphs[-1].append(tokenizer.eos_id)
    row: list[int] = []
    for ids in paragraphs:
        if row and len(row) + len(ids) > limit:
            yield row
            row = []
        row += ids
        while len(row) > limit:
            yield row[:limit]
            row = row[limit:]
    if row:
        yield row


def _paragraphs(text: str) -> list[str]:
    """The text cut before each paragraph; joined again they are the text."""
    pieces = text.split("\n\n")
    return [pieces[0], *("\n\n" + piece for piece in pieces[1:])]
