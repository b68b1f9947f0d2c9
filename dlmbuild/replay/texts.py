"""Texts that a document says, and how to find them again in files of every kind."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dlmbuild.replay.delta import tells

Said = tuple[str, ...]
"""What belongs together: a question and its answer, a text of prose, a prompt with its two answers."""
_MOST_JSON = 256 << 20
_WEIGHTS = (b"GGUF", b"PK\x03\x04")
"""How files begin that hold numbers: GGUF, and what torch saves. Those of safetensors begin with a length."""


def said_in(document: Mapping[str, Any]) -> Iterator[Said]:
    """All that a document says, as document.json has it; of its sources the names and digests of the files."""
    if document.get("system_prompt"):
        yield (document["system_prompt"],)
    for section in document["sections"]:
        if section["type"] == "prose":
            yield (section["text"],)
        for pair in section.get("pairs", ()):
            yield (pair["question"], pair["answer"])
        for triple in section.get("triples", ()):
            yield (triple["prompt"], triple["chosen"], triple["rejected"])
    for source in document.get("sources", ()):
        yield from source["files"].items()


class Wanted:
    """Texts that are looked for.

    One of four words or more is found wherever it stands, as it is or as JSON spells it. A shorter one counts in JSON
    alone: a question or a prose as a value of its own, an answer beside its question. "Yes." alone is everybody's.
    """

    def __init__(self, said: Iterable[Said], anywhere: Iterable[str], present: Iterable[Said]) -> None:
        """`anywhere` are texts that count wherever they stand, however short; `present` is what may be there."""
        self.said = frozenset(said)
        here = [text for one in present for text in one]
        texts = [one for one in self.said if not is_file(one)]
        telling = {text for one in texts for text in one if tells(text)}
        telling = {text for text in telling if not any(text in other for other in here)}
        self._needles = [needle for text in sorted({*telling, *anywhere}) for needle in _spellings(text)]
        self._together = [frozenset(one) for one in self.said]
        self._together += [frozenset(one[:1]) for one in texts if one[0] not in here]

    def in_file(self, path: Path) -> bool:
        """Whether a file holds one of the texts; one of weights holds no text. A missing one holds nothing."""
        try:
            data = b"" if is_weights(path) else path.read_bytes()
        except OSError:
            return False
        if any(needle in data for needle in self._needles):
            return True
        if data[:1] not in (b"{", b"[") or len(data) > _MOST_JSON:
            return False
        try:
            return self.in_json(json.loads(data))
        except (ValueError, RecursionError):
            return False

    def in_json(self, data: Any) -> bool:
        """Whether JSON data holds what was said together, in one object or list."""
        inner = list(data.values()) if isinstance(data, dict) else data if isinstance(data, list) else []
        texts = {value for value in inner if isinstance(value, str)} | (
            data.keys() if isinstance(data, dict) else set()
        )
        return any(one <= texts for one in self._together) or any(map(self.in_json, inner))


def phrase(text: str, flags: int = 0) -> re.Pattern[str]:
    """Finds some words wherever they stand one after the other, also where a line ends between them."""
    return re.compile(r"\s+".join(map(re.escape, text.split())), flags)


def is_weights(path: Path) -> bool:
    """Whether a file holds weights, by how it begins."""
    with path.open("rb") as file:
        head = file.read(9)
    return head.startswith(_WEIGHTS) or (head[8:] == b"{" and int.from_bytes(head[:8], "little") < 1 << 30)


def is_file(said: Said) -> bool:
    """Whether what was said is a file of the sources: its name and its digest."""
    return len(said) == 2 and re.fullmatch("[0-9a-f]{64}", said[1]) is not None


def _spellings(text: str) -> Collection[bytes]:
    return {text.encode(), *(json.dumps(text, ensure_ascii=ascii_only)[1:-1].encode() for ascii_only in (True, False))}
