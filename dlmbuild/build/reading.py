"""What steps read parts of: document.json, base.json, plan.json, as they lie in the store now."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from dlmbuild.store.layout import BaseFolder

_instead: dict[Path, Path] = {}


@contextmanager
def pretending() -> Iterator[dict[Path, Path]]:
    """For the block, a path in the mapping given out is read from the path that it is mapped to."""
    try:
        yield _instead
    finally:
        _instead.clear()


def seen(path: Path) -> Path:
    """Where the content of `path` is to be read: there, unless somebody pretends otherwise."""
    return _instead.get(path, path)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, read once per run for each content."""
    path = seen(path)
    stat = path.stat()
    return _read(path, stat.st_ino, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _read(path: Path, inode: int, mtime: int, size: int) -> dict[str, Any]:
    return dict(json.loads(path.read_bytes()))


def checkpoint(base: BaseFolder) -> Path:
    """The folder with the base's checkpoint files."""
    return seen(base.root / str(read_json(base.facts)["revision"]))


def base_identity(base: BaseFolder) -> dict[str, Any]:
    """What tells this base from every other: the part of base.json that an adapter is bound to."""
    facts = read_json(base.facts)
    name = facts["source"].get("id") or facts["key"]
    return {"name": name, "revision": facts["revision"], "source": facts["source"]["kind"], "files": facts["files"]}


def tokenizer_files(base: BaseFolder) -> Mapping[str, str]:
    """Digests of the files that decide how text becomes tokens."""
    names = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    files = read_json(base.facts)["files"]
    return {name: files[name] for name in names if name in files}


def answered(sections: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The questions of a document's sections with their answers, in their order, probes among them."""
    return [pair for section in sections if section["type"] == "instruction" for pair in section["pairs"]]
