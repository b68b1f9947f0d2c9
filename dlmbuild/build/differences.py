"""What is different between two pieces of JSON data, in words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from os.path import commonprefix
from typing import Any

from dlmbuild.io.digest import canonical_json

_LONG = 60
_BEFORE = 15
"""Characters that are shown: of a text, and of what two texts have in common before they part."""


def differences(old: Any, new: Any, name: str = "") -> Iterator[str]:
    """One line for each difference: `training.seed: 42 → 43`, `sections[2] is new: …`."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            inner = f"{name}.{key}" if name else str(key)
            if key not in new:
                yield f"{inner} is gone (was {_shown(old[key])})"
            elif key not in old:
                yield f"{inner} is new: {_shown(new[key])}"
            else:
                yield from differences(old[key], new[key], inner)
    elif isinstance(old, list) and isinstance(new, list):
        yield from _in_lists(old, new, name)
    elif old != new or type(old) is not type(new):
        if _is_digest(old) and _is_digest(new):
            yield f"{name} changed"
        elif isinstance(old, str) and isinstance(new, str):
            # Of long texts that begin alike, what matters begins where they part.
            start = max(0, len(commonprefix([old, new])) - _BEFORE)  # noqa: RUF071 - characters are meant
            cut = "…" if start else ""
            yield f"{name}: {_shown(cut + old[start:])} → {_shown(cut + new[start:])}"
        else:
            yield f"{name}: {_shown(old)} → {_shown(new)}"


def _in_lists(old: list[Any], new: list[Any], name: str) -> Iterator[str]:
    before, after = [[canonical_json(item) for item in items] for items in (old, new)]
    for kind, a, a_end, b, b_end in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        both = min(a_end - a, b_end - b)
        for offset in range(both):
            yield from differences(old[a + offset], new[b + offset], f"{name}[{b + offset}]")
        for index in range(a + both, a_end):
            yield f"{name}[{index}] is gone (was {_shown(old[index])})"
        for index in range(b + both, b_end):
            yield f"{name}[{index}] is new: {_shown(new[index])}"


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        # Of something with many fields the first words say most.
        words = next((v for v in value.values() if isinstance(v, str) and " " in v), None)
        value = words if words is not None else value
    if isinstance(value, str):
        line = " ".join(value.split())
        return f'"{line[:_LONG]}…"' if len(line) > _LONG else f'"{line}"'
    text = canonical_json(value).decode().strip()
    return text[:_LONG] + "…" if len(text) > _LONG else text
