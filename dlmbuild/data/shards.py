"""dataset.json and its shards: rows on disk, one JSON line each, and the counts that a person should see.

A shard holds the rows of one source (today the document itself), so that an edit of one source rewrites one shard.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dlmbuild.data.rows import Row
from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.errors import DataError, StoreError
from dlmbuild.io.digest import canonical_json, readable_json, sha256_file

DOCUMENT_SHARD = "document.jsonl"


def write_dataset(
    rows: Iterable[Row], tokenizer: Tokenizer, sequence_len: int, out: Path, *, instead: str = ""
) -> dict[str, Any]:
    """Write the shards and `dataset.json` into `out`, one row at a time; returns the counts.

    Raises DataError where there is nothing to train; `instead` says what the document holds then.
    """
    kinds: Counter[str] = Counter()
    tokens = learned = longest = 0
    digest = hashlib.sha256()
    with (out / DOCUMENT_SHARD).open("wb") as shard:
        for row in rows:
            line = canonical_json(row.as_data())
            shard.write(line)
            digest.update(line)
            kinds[row.kind] += 1
            tokens += len(row.ids)
            learned += len(row.ids) - row.given
            longest = max(longest, len(row.ids))
    if not kinds:
        (out / DOCUMENT_SHARD).unlink()
        raise DataError(
            "the document has nothing to train",
            why=f"it holds {instead}, and no more" if instead else "it holds neither prose nor an answered question",
            do="write a paragraph, or an ::instruction:: section with ### Q and ### A",
        )
    counts = {"rows": dict(kinds), "tokens": tokens, "learned_tokens": learned, "longest_row": longest}
    index = {
        "shards": {DOCUMENT_SHARD: digest.hexdigest()},
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
        shard = index_file.parent / "dataset" / name
        if sha256_file(shard) != sha256:
            raise StoreError(f"shard {name} is not what dataset.json says", do="doit dataset")
        with shard.open("rb") as lines:
            for line in lines:
                data = json.loads(line)
                yield Row(data["kind"], tuple(data["ids"]), data["given"])
