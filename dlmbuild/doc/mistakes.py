"""All that is wrong with one document, collected while reading goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

from dlmbuild.errors import DlmError, DocumentError, InvalidDocument, Where

MOST = 1000
"""Reading stops after this many: a file with more is not a document with mistakes, it is another kind of file."""


class Mistakes:
    """The mistakes found so far in the file `path`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._found: list[DlmError] = []

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[DlmError]:
        return iter(self._found)

    def add(self, line: int, col: int, what: str, *, why: str = "", do: str = "") -> None:
        """Note a mistake at a position of the file. Raises InvalidDocument when it is one too many."""
        self.note(DocumentError(what, where=Where(self.path, line, col), why=why, do=do))

    def note(self, error: DlmError) -> None:
        """Note a mistake that is an error already, with its position. Raises InvalidDocument as `add` does."""
        self._found.append(error)
        if len(self._found) == MOST:
            self._found.append(DocumentError(f"{MOST} mistakes; reading stopped here", where=error.where))
            self.stop()

    def stop(self) -> NoReturn:
        """Raise what was found, for want of anything to go on with."""
        raise InvalidDocument(self._found)


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that is most like `word`, or "" if none is."""
    if len(word) > 64:  # a hostile word; comparing costs more than linear time
        return ""
    import difflib

    matches = difflib.get_close_matches(word.lower(), list(known), n=1)
    return matches[0] if matches else ""


def shown(value: Any) -> str:
    """A value as an error message quotes it: JSON, on one line, never long."""
    if isinstance(value, str):
        return json.dumps(shortened(value), ensure_ascii=False)
    return shortened(json.dumps(value, ensure_ascii=False, default=str))


def shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "…"
