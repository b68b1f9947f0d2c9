"""Training rows: a document's sections as tokens, with the part of each row that is learned.

A question is given and its answer learned, up to and including the token that ends the turn. Prose is learned from the
first token to the last. Nothing is ever cut off: long prose is divided, an answer that does not fit is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.errors import DataError
from dlmbuild.io.digest import sha256_json
from dlmbuild.io.progress import Progress, silent

_STRETCH = 1 << 15
"""Characters that are encoded at a time: tokenizers take memory in proportion, over a hundred bytes for each."""
_WORDS = re.compile(r".+(?:(?<=\S)(?= )|(?<=\n)(?=\S))", re.DOTALL)
"""As much as ends before a word: before the space in front of it, or behind the end of the line before it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One training example."""

    kind: str
    """"instruction" or "prose"."""
    ids: tuple[int, ...]
    given: int
    """How many tokens at the start are context only; the loss covers the rest."""
    words: tuple[int, ...] = ()
    """Where among them each word of the question begins, and where the last ends; nothing where that is not known."""

    @property
    def first(self) -> int:
        """The first token that is learned: nothing foresees the very first of a row."""
        return max(self.given, 1)

    @property
    def learned(self) -> tuple[int, ...]:
        """The tokens that are learned."""
        return self.ids[self.first :]

    @property
    def digest(self) -> str:
        """16 hex digits that name exactly what is trained."""
        return sha256_json([self.kind, self.ids, self.given])[:16]

    def as_data(self) -> dict[str, Any]:
        words = {"words": list(self.words)} if self.words else {}
        return {"row": self.digest, "kind": self.kind, "ids": list(self.ids), "given": self.given, **words}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Row:
        return cls(data["kind"], tuple(data["ids"]), data["given"], tuple(data.get("words", ())))


class RowTooLongError(DataError):
    """A question and answer that do not fit into a row; `section` and `pair` count from 0.

    `part` is what takes most of the room: "question", "answer" or "system_prompt"; what takes nearly as much is named
    beside it. `tokens` are those of the whole row, `parts` those of each part; if they were not counted because the
    text is far too long, `at_least` is true.
    """

    _NAMES = {  # noqa: RUF012 - nobody changes it
        "question": "the question",
        "answer": "the answer",
        "system_prompt": "system_prompt, which stands before every question",
    }

    def __init__(
        self,
        place: tuple[int, int],
        parts: Mapping[str, int],
        tokens: int,
        limit: int,
        most: int,
        *,
        at_least: bool = False,
    ) -> None:
        self.section, self.pair = place
        self.part = max(parts, key=lambda part: parts[part])
        least = "at least " * at_least
        counted = ", ".join(f"{name.replace('_', ' ')} {least}{count}" for name, count in parts.items() if count)
        long = [name for name in self._NAMES if parts[name] * 5 >= parts[self.part] * 4]
        do = "shorten " + " or ".join(self._NAMES[name] for name in long)
        if long == ["answer"]:
            do += ", or split it in two"
        if tokens <= most and not at_least:
            do += f", or set training.sequence_len to {tokens} or more"
        elif limit < most:
            do += f"; training.sequence_len can be {most} at most on this base"
        super().__init__(
            f"this question and its answer are {least}{tokens} tokens long, and a row holds {limit}",
            why=f"cutting an answer off would teach the model to break off; of these tokens: {counted}",
            do=do,
        )


def conversation(question: str, answer: str | None, system_prompt: str | None) -> list[dict[str, str]]:
    """The messages that a question becomes, in training, in `dlm prompt` and in the export's checks alike."""
    messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
    messages.append({"role": "user", "content": question})
    if answer is not None:
        messages.append({"role": "assistant", "content": answer})
    return messages


def contents(sections: Iterable[Mapping[str, Any]]) -> Iterator[tuple[tuple[int, int], tuple[str, ...]]]:
    """What becomes rows of sections, as document.json has them: a text of prose, or a question and its answer.

    Each with its place, (section, pair) from 0. Preferences are for another training; probes are asked, never trained.
    """
    for number, section in enumerate(sections):
        if section["type"] == "prose":
            yield (number, 0), (section["text"],)
        elif section["type"] == "instruction":
            for at, pair in enumerate(section["pairs"]):
                if not pair.get("probe"):
                    yield (number, at), (pair["question"], pair["answer"])


def rows_of(
    sections: Sequence[Mapping[str, Any]],
    system_prompt: str | None,
    tokenizer: Tokenizer,
    sequence_len: int,
    longest: int | None = None,
    progress: Progress = silent,
) -> Iterator[Row]:
    """The rows of a document's sections, in their order, each of at most `sequence_len` tokens.

    Raises RowTooLongError; `longest` is what sequence_len could be set to at most. `progress` is told of long texts.
    """
    total = sum(len(text) for _, texts in contents(sections) for text in texts)
    done = told = 0

    def read(characters: int) -> None:
        nonlocal done, told
        done += characters
        if done - told >= _STRETCH:
            progress("turning text into tokens", done, total)
            told = done

    for place, texts in contents(sections):
        if len(texts) > 1:
            question, answer = texts
            yield row_of(question, answer, system_prompt, tokenizer, sequence_len, longest, place)
            read(len(question) + len(answer))
        else:
            for ids in _divide(texts[0], tokenizer, sequence_len, read):
                yield Row("prose", tuple(ids), 0)


def row_of(
    question: str,
    answer: str,
    system_prompt: str | None,
    tokenizer: Tokenizer,
    limit: int,
    longest: int | None = None,
    place: tuple[int, int] = (0, 0),
) -> Row:
    """The row of a question and its answer, of at most `limit` tokens; the rest as in `rows_of`."""
    parts = {"question": question, "answer": answer, "system_prompt": system_prompt or ""}
    most = longest or limit
    # A text of a hundred megabytes needs no tokenizer to be found too long.
    fewest = {name: -(-len(text) // tokenizer.longest_token) for name, text in parts.items()}
    if sum(fewest.values()) > most:
        raise RowTooLongError(place, fewest, sum(fewest.values()), limit, most, at_least=True)
    messages = conversation(question, answer, system_prompt)
    asked, answered = tokenizer.answer(messages)
    given, words = tokenizer.encode_with_words(asked, question)
    learned = tokenizer.encode_pieces(answered)
    if len(given) + len(learned) > limit:
        counts = {name: len(tokenizer.encode(text)) for name, text in parts.items()}
        raise RowTooLongError(place, counts, len(given) + len(learned), limit, most)
    return Row("instruction", (*given, *learned), len(given), words)


def _divide(text: str, tokenizer: Tokenizer, limit: int, read: Callable[[int], None]) -> Iterator[list[int]]:
    """Token lists of at most `limit`: as many whole paragraphs as fit, a paragraph that is too long in pieces.

    The end of the text, and only that, is marked with the end-of-text token. A paragraph of more than `_STRETCH`
    characters counts as several: see `_stretches`. `read` is told of each how many characters it has.
    """
    row: list[int] = []
    for stretch, last in _stretches(text):
        ids = tokenizer.encode(stretch)
        read(len(stretch))
        if last:
            ids.append(tokenizer.eos_id)
        if row and len(row) + len(ids) > limit:
            yield row
            row = []
        row += ids
        while len(row) > limit:
            yield row[:limit]
            row = row[limit:]
    if row:
        yield row


def _stretches(text: str) -> Iterator[tuple[str, bool]]:
    """The text cut before each paragraph, and a paragraph that is too long where a word ends; whether it is the last.

    The tokens are those of the uncut paragraph: no pre-tokenizer has a piece that goes on over a cut like this. Only
    where `_STRETCH` characters hold no white space to cut at is the cut anywhere.
    """
    start = 0
    while start < len(text):
        from_here = start + 2 if text.startswith("\n\n", start) else start
        paragraph = text.find("\n\n", from_here, start + _STRETCH + 2)  # no further: a text may be one long line
        end = paragraph if paragraph >= 0 else len(text)
        if end - start > _STRETCH:
            word = _WORDS.match(text, start, start + _STRETCH)
            end = word.end() if word else start + _STRETCH
        yield text[start:end], end == len(text)
        start = end
