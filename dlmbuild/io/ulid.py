"""ULIDs, the identity of a document: 48 bits of milliseconds and 80 random bits in Crockford's base 32.

Specification: https://github.com/ulid/spec
"""

from __future__ import annotations

import os
import re
import time

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


def new_ulid() -> str:
    """A fresh identity, 26 characters."""
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10))
    return "".join(ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))


def is_ulid(text: str) -> bool:
    """Whether `text` is a ULID in its one canonical, upper-case spelling; values above 2^128 - 1 are not."""
    return _ULID.fullmatch(text) is not None
