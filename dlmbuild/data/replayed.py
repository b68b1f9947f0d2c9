"""Rows of sections that a document says no more: each with its section's age, to be drawn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

from dlmbuild.data.rows import Row, RowTooLongError, row_of, rows_of
from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.data.validation import normal


class OldRow(NamedTuple):
    """A row that may be replayed."""

    row: Row
    section: str
    age: int


def old_rows(
    sections: Iterable[tuple[str, Mapping[str, Any], int]],
    held: Collection[str],
    system_prompt: str | None,
    tokenizer: Tokenizer,
    sequence_len: int,
) -> tuple[list[OldRow], dict[str, int]]:
    """The rows of (name, section, age), without what says a text that is `held` out (each as `validation.normal`).

    Also why how many were left out, in words: what no longer fits into a row is not cut off either.
    """
    found: list[OldRow] = []
    left: Counter[str] = Counter()
    for name, section, age in sections:
        if section["type"] == "prose":
            if normal(section["text"]) in held:
                left["held out for validation"] += 1
                continue
            found += [OldRow(row, name, age) for row in rows_of([dict(section)], None, tokenizer, sequence_len)]
            continue
        for pair in section["pairs"]:
            if not {normal(pair["question"]), normal(pair["answer"])}.isdisjoint(held):
                left["held out for validation"] += 1
                continue
            try:
                row = row_of(pair["question"], pair["answer"], system_prompt, tokenizer, sequence_len)
                found.append(OldRow(row, name, age))
            except RowTooLongError:
                left["longer than a row"] += 1
    return found, dict(left)
