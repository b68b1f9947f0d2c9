"""dataset.json and its shards: rows on disk, one JSON line each, and the counts that a person should see.

One shard holds the rows of the document itself, others those of its sources: see source_shards.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from dlmbuild.data.rows import Row
from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.data.vocabulary import Vocabulary, vocabulary_of
from dlmbuild.errors import DataError, StoreError
from dlmbuild.io.digest import canonical_json, readable_json, sha256_file

DOCUMENT_SHARD = "document.jsonl"
VALIDATION_SHARD = "validation.jsonl"
"""What is held out."""
REPLAY_SHARD = "replay.jsonl"
"""What the document says no more."""


@dataclass(slots=True)
class Counts:
    """What is in a shard, or in a dataset."""

    rows: Counter[str] = field(default_factory=Counter)
    """By kind."""
    tokens: int = 0
    learned_tokens: int = 0
    longest_row: int = 0

    def add(self, other: Counts) -> None:
        self.rows += other.rows
        self.tokens += other.tokens
        self.learned_tokens += other.learned_tokens
        self.longest_row = max(self.longest_row, other.longest_row)

    def as_data(self) -> dict[str, Any]:
        return {**asdict(self), "rows": dict(self.rows)}


class Shard(NamedTuple):
    """A file of rows."""

    sha256: str
    counts: Counts
    vocabulary: Vocabulary
    """Of the text that the rows were made of."""

    def as_data(self) -> dict[str, Any]:
        return {"sha256": self.sha256, "counts": self.counts.as_data(), "vocabulary": self.vocabulary.as_data()}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Shard:
        counts = data["counts"]
        known = Counts(**{**counts, "rows": Counter(counts["rows"])})
        return cls(data["sha256"], known, Vocabulary(**data["vocabulary"]))


def write_shard(rows: Iterable[Row], path: Path, words: Mapping[str, int], tokenizer: Tokenizer) -> Shard:
    """Write rows to a file, one at a time; no file is left where there are none.

    `words` are those of the rows' text; they may become known as the rows do.
    """
    counts, digest = Counts(), hashlib.sha256()
    with path.open("wb") as shard:
        for row in rows:
            line = canonical_json(row.as_data())
            shard.write(line)
            digest.update(line)
            counts.add(Counts(Counter({row.kind: 1}), len(row.ids), len(row.ids) - row.given, len(row.ids)))
    if not counts.rows:
        path.unlink()
    return Shard(digest.hexdigest(), counts, vocabulary_of(words, tokenizer))


def write_dataset(
    rows: Iterable[Row],
    tokenizer: Tokenizer,
    sequence_len: int,
    out: Path,
    *,
    others: Mapping[str, Shard] | None = None,
    instead: str = "",
    held: Iterable[Row] | None = None,
    replay: Callable[[int], Iterable[Row]] = lambda rows: (),
    words: Mapping[str, int] | None = None,
    system_prompt: str | None = None,
) -> dict[str, Any]:
    """Write the document's shard and `dataset.json` into `out`, where `others` lie already; returns the counts.

    `held` are the rows of what is held out; `replay` gives those of earlier versions that go with so many rows; `words`
    are those of the text of all rows, and `system_prompt` is what stands before its questions. Raises DataError where
    there is nothing to train; `instead` says what the document holds then.
    """
    shards = {**(others or {}), DOCUMENT_SHARD: write_shard(rows, out / DOCUMENT_SHARD, words or {}, tokenizer)}
    counts, vocabulary = Counts(), Vocabulary()
    for shard in shards.values():
        counts.add(shard.counts)
        vocabulary.add(shard.vocabulary)
    if not counts.rows:
        raise DataError(
            "the document has nothing to train",
            why=f"it holds {instead}, and no more" if instead else "it holds neither prose nor an answered question",
            do="write a paragraph, or an ::instruction:: section with ### Q and ### A",
        )
    replayed = write_shard(replay(counts.rows.total()), out / REPLAY_SHARD, {}, tokenizer)
    if replayed.counts.rows:
        shards[REPLAY_SHARD] = replayed
        counts.add(replayed.counts)
    index: dict[str, Any] = {
        "shards": {name: shard.sha256 for name, shard in shards.items() if shard.counts.rows},
        "sequence_len": sequence_len,
        "pad_id": tokenizer.pad_id,
        **({"system_prompt": system_prompt} if system_prompt else {}),
        "counts": counts.as_data(),
        **({"replayed": replayed.counts.as_data()} if replayed.counts.rows else {}),
        "vocabulary": vocabulary.report(),
    }
    if held is not None:
        shard = write_shard(held, out / VALIDATION_SHARD, {}, tokenizer)
        index["shards"][VALIDATION_SHARD] = shard.sha256
        index["held_out"] = shard.counts.as_data()
        counts.longest_row = max(counts.longest_row, shard.counts.longest_row)
        index["counts"] = counts.as_data()
    (out / "dataset.json").write_bytes(readable_json(index))
    return counts.as_data()


def distinct_rows(
    index_files: Iterable[Path], *, held: bool = False, replayed: bool = True
) -> Iterator[tuple[str, Row]]:
    """(digest, row) for the rows of some datasets, each once: adapters of a mix may have learned the same row."""
    seen: set[str] = set()
    for path in index_files:
        for row in read_rows(path, held=held, replayed=replayed):
            if (digest := row.digest) not in seen:
                seen.add(digest)
                yield digest, row


def read_rows(index_file: Path, *, held: bool = False, replayed: bool = True) -> Iterator[Row]:
    """The rows of a dataset, or those held out of it, the shards checked against their digests.

    Without `replayed` only what the document and its sources say now.
    """
    index = json.loads(index_file.read_bytes())
    for name, sha256 in sorted(index["shards"].items()):
        if (name == VALIDATION_SHARD) != held or (name == REPLAY_SHARD and not replayed):
            continue
        shard = index_file.parent / "dataset" / name
        if sha256_file(shard) != sha256:
            raise StoreError(f"shard {name} is not what dataset.json says", do="doit dataset")
        with shard.open("rb") as lines:
            for line in lines:
                yield Row.from_data(json.loads(line))
