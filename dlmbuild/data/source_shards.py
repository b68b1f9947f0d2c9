"""Shards of rows from source files: some dozens of files each, so that an edit of one file rewrites one shard.

Where a shard ends is decided by the names of files alone, as in content-defined chunking: a new or a deleted file
changes its own shard and at most the one before it.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dlmbuild.data.rows import Row, rows_of
from dlmbuild.data.shards import Shard, write_shard
from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.data.vocabulary import words_of
from dlmbuild.doc.source_file import shown_name, source_text
from dlmbuild.io.digest import sha256_bytes, sha256_json
from dlmbuild.io.progress import Progress, silent
from dlmbuild.store.objects import Objects

_RULE = "source shard/2"
"""Bump it when the same files give other rows, or something else is told of them."""
_FILES = 64
"""In a shard, on average."""


class SourceFile(NamedTuple):
    """A file whose text is trained `weight` times; the name, with `/` between folders, stands above the text."""

    name: str
    sha256: str
    weight: float
    path: str
    """Where it lies; decides nothing."""

    @property
    def copies(self) -> int:
        """How often it is trained: a weight of 2.3 is three copies of three files in ten, two of the others."""
        whole = int(self.weight)
        part = int(sha256_bytes(f"{self.name}\0{self.sha256}".encode())[:8], 16) / 2**32
        return whole + (part < self.weight - whole)


def source_files(sources: Iterable[Mapping[str, Any]], folders: Iterable[str]) -> list[SourceFile]:
    """The files of `sources`, as document.json has them, each source in its folder; sorted."""
    return sorted(
        SourceFile(name, sha256, source.get("weights", {}).get(name, 1.0), f"{folder}/{name}")
        for source, folder in zip(sources, folders, strict=True)
        for name, sha256 in source["files"].items()
    )


def write_source_shards(
    files: Iterable[SourceFile],
    tokenizer: Tokenizer,
    sequence_len: int,
    out: Path,
    known: Mapping[str, Any],
    objects: Objects,
    made_with: Any,
    progress: Progress = silent,
) -> tuple[dict[str, Shard], dict[str, Any]]:
    """Write the shards of `files` (sorted) into `out`: name → shard, and what to pass as `known` the next time.

    A shard in `known` is copied from `objects`. `made_with` is JSON data that changes when the tokenizer does.
    """
    files = list(files)
    done = 0
    shards: dict[str, Shard] = {}
    keys: dict[str, Any] = {}
    for name, part in _partition(files):
        key = sha256_json([_RULE, made_with, sequence_len, [file[:3] for file in part]])
        shard = Shard.from_data(known[key]) if key in known else None
        if shard and shard.counts.rows and objects.has(shard.sha256):
            shutil.copyfile(objects.path(shard.sha256), out / name)
            objects.cache.remember(out / name, shard.sha256)
        elif shard is None or shard.counts.rows:
            words: Counter[str] = Counter()
            shard = write_shard(_rows(part, tokenizer, sequence_len, words), out / name, words, tokenizer)
        keys[key] = shard.as_data()
        if shard.counts.rows:
            shards[name] = shard
        done += len(part)
        progress("turning source files into tokens", done, len(files))
    return shards, keys


def _partition(files: Iterable[SourceFile]) -> Iterator[tuple[str, list[SourceFile]]]:
    part: list[SourceFile] = []
    for file in files:
        begins = int(sha256_bytes(file.name.encode())[:8], 16) % _FILES == 0
        if begins and part and file.name != part[-1].name:
            yield _name(part), part
            part = []
        part.append(file)
    if part:
        yield _name(part), part


def _name(part: list[SourceFile]) -> str:
    return f"source-{sha256_bytes(part[0].name.encode())[:16]}.jsonl"


def _rows(files: Iterable[SourceFile], tokenizer: Tokenizer, sequence_len: int, words: Counter[str]) -> Iterator[Row]:
    """The rows of some files; `words` are told of those in their text."""
    for file in files:
        if not file.copies:
            continue
        text = source_text(file.path, file.sha256).strip("\n").rstrip()
        section = {"type": "prose", "text": f"# source: {shown_name(file.name)}\n\n{text}"}
        words.update(words_of([section]))
        for row in rows_of([section], None, tokenizer, sequence_len):
            for _ in range(file.copies):
                yield row
