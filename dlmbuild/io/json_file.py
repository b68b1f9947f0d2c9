"""Reading JSON that somebody else wrote: bounded, an object at the top, never another error than the caller's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dlmbuild.errors import DlmError, Where

MAX_BYTES = 128 << 20
"""The largest tokenizer.json known is about 35 MB."""
_MEND = "mend the file, or fetch or save again what it belongs to"


def read_json_object(path: Path, error: type[DlmError]) -> dict[str, Any]:
    """The object in the file `path`. Raises `error` for anything else."""
    where = Where(str(path))
    try:
        if path.stat().st_size > MAX_BYTES:
            raise error(f"more than {MAX_BYTES} bytes of JSON", where=where, do="name the right file")
        data = path.read_bytes()
    except OSError as problem:
        raise error("the file cannot be read", where=where, why=problem.strerror or str(problem), do=_MEND) from None
    return parse_json_object(data, where, error)


def parse_json_object(data: bytes, where: Where, error: type[DlmError]) -> dict[str, Any]:
    """The object that `data` spells. Raises `error` for anything else, a repeated key included."""
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as problem:
        raise error("this is not sound JSON", where=where, why=str(problem), do=_MEND) from None
    if not isinstance(value, dict):
        raise error(f"an object was expected, and {type(value).__name__} found", where=where, do=_MEND)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
