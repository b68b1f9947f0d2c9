"""Rows for preference training: a prompt with a better and a worse answer, as tokens."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlmbuild.data.rows import row_of
from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.errors import StoreError
from dlmbuild.io.digest import canonical_json, readable_json, sha256_bytes

PAIRS = "preference.json"
"""The index of the rows, which lies among the shards of a dataset."""
_SHARD = "preference.jsonl"


@dataclass(frozen=True, slots=True)
class PairRow:
    """Token ids; both answers end with the token that ends a turn."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]

    @property
    def length(self) -> int:
        """Tokens that a step computes for it: the prompt stands before each answer."""
        return 2 * len(self.prompt) + len(self.chosen) + len(self.rejected)

    def as_data(self) -> dict[str, Any]:
        return {"prompt": list(self.prompt), "chosen": list(self.chosen), "rejected": list(self.rejected)}


def pairs_of(
    sections: Sequence[dict[str, Any]],
    system_prompt: str | None,
    tokenizer: Tokenizer,
    sequence_len: int,
    longest: int,
) -> Iterator[PairRow]:
    """The rows of a document's preference sections, in their order. Raises RowTooLongError, as `rows_of` does."""
    for number, section in enumerate(sections):
        if section["type"] != "preference":
            continue
        for at, triple in enumerate(section["triples"]):
            answers = [
                row_of(triple["prompt"], triple[answer], system_prompt, tokenizer, sequence_len, longest, (number, at))
                for answer in ("chosen", "rejected")
            ]
            chosen, rejected = (row.ids[row.given :] for row in answers)
            yield PairRow(answers[0].ids[: answers[0].given], chosen, rejected)


def write_pairs(rows: Iterable[PairRow], tokenizer: Tokenizer, out: Path) -> dict[str, int]:
    """Write the rows and their index `preference.json` into `out`; returns the counts."""
    found = list(rows)
    shard = b"".join(canonical_json(row.as_data()) for row in found)
    (out / _SHARD).write_bytes(shard)
    counts = {"pairs": len(found), "tokens": sum(row.length for row in found)}
    index = {"sha256": sha256_bytes(shard), "pad_id": tokenizer.pad_id, "counts": counts}
    (out / PAIRS).write_bytes(readable_json(index))
    return counts


def read_pairs(index_file: Path) -> tuple[list[PairRow], int]:
    """The rows, checked against their digest, and the token that shorter ones of a batch are filled up with."""
    index = json.loads(index_file.read_bytes())
    shard = (index_file.parent / _SHARD).read_bytes()
    if sha256_bytes(shard) != index["sha256"]:
        raise StoreError(f"{_SHARD} is not what {PAIRS} says", do="doit dataset")
    found = [json.loads(line) for line in shard.splitlines()]
    return [PairRow(*(tuple(row[name]) for name in ("prompt", "chosen", "rejected"))) for row in found], index["pad_id"]
