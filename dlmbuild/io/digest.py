"""SHA-256 of files and of data, and the one way in which data becomes bytes.

SHA-256 because it is already the name of a file on model hubs (LFS) and in Ollama's blob store.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

JSON = Any
"""What `json` can carry: dict with string keys, list, str, int, float, bool, None."""


def canonical_json(data: JSON) -> bytes:
    """The same data gives the same bytes: keys sorted, no spaces, no NaN, UTF-8, one newline at the end."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def readable_json(data: JSON) -> bytes:
    """As canonical as `canonical_json`, laid out for people to read."""
    return json.dumps(data, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def sha256_bytes(data: bytes) -> str:
    """Lower-case hex digest of 64 characters."""
    return hashlib.sha256(data).hexdigest()


def sha256_json(data: JSON) -> str:
    """Digest of the canonical bytes of `data`."""
    return sha256_bytes(canonical_json(data))


def sha256_file(path: Path) -> str:
    """Digest of a file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
