"""dataset.json and its shards: rows on disk, one JSON line each, and the counts that a person should see.

A shard holds the rows of one source (today the document itself), so that an edit of one source rewrites one shard.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dlmbuild.data.rows import Row
from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.errors import DataError, StoreError
from dlmbuild.io.digest import canonical_json, readable_json, sha256_bytes

DOCUMENT_SHARD = "document.jsonl"


def write_dataset(rows: Iterable[Row], tokenizer: Tokenizer, sequence_len: int, out: Path) -> dict[str, Any]:
    """Write the shards and `dataset.json` into `out`; returns the counts.

    Raises DataError where there is nothing to train.
    """
    found = list(rows)
    if not found:
        raise DataError(
            "the document has nothing to train",
            why="it holds neither prose nor an answered question",
            do="write a paragraph, or an ::instruction:: section with ### Q and ### A",
        )
    shard = b"".join(canonical_json(row.as_data()) for row in found)
    (out / DOCUMENT_SHARD).write_bytes(shard)
    kinds = Counter(row.kind for row in found)
    counts = {
        "rows": dict(kinds),
        "tokens": sum(len(row.ids) for row in found),
        "learned_tokens": sum(len(row.ids) - row.given for row in found),
        "longest_row": max(len(row.ids) for row in found),
    }
    index = {
        "shards": {DOCUMENT_SHARD: sha256_bytes(shard)},
        "sequence_len": sequence_len,
        "pad_id": tokenizer.pad_id,
        "counts": counts,
    }
    (out / "dataset.json").write_bytes(readable_json(index))
    return counts


def read_rows(index_file: Path) -> Iterator[Row]:
    """The rows of a dataset, its shards checked against their digests."""
    index = json.loads(index_file.read_bytes())
    for name, sha256 in sorted(index["shards"].items()):
        shard = (index_file.parent / "dataset" / name).read_bytes()
        if sha256_bytes(shard) != sha256:
            raise StoreError(f"shard {name} is not what dataset.json says", do="doit dataset")
        for line in shard.splitlines():
            data = json.loads(line)
            yield Row(data["kind"], tuple(data["ids"]), data["given"])
