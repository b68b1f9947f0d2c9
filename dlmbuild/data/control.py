"""Control tokens (`<|im_end|>` and the like): alive where the template writes them, plain text where a person does.

A template joins both into one text, so what a person wrote is marked before it is rendered: a character that occurs
nowhere else is put into every spelling of a control token. Rendered, the text is cut into pieces again, each of which
says whether the control tokens written in it are meant. The same is done with the vocabulary of a checkpoint and with
that of a GGUF, so that both come to the same tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple


class Piece(NamedTuple):
    """A stretch of text; with `control`, the control tokens written in it are meant as such."""

    text: str
    control: bool


class ControlTokens:
    """The control tokens of one vocabulary, by their spelling."""

    def __init__(self, spellings: Iterable[str]) -> None:
        # Longest first: of two tokens that begin alike the longer one is meant.
        self._spellings = "|".join(map(re.escape, sorted(filter(None, set(spellings)), key=lambda s: (-len(s), s))))

    def find(self, text: str) -> list[re.Match[str]]:
        """Where control tokens are spelled in a text."""
        return list(self._spelled.finditer(text))

    def mark(self, texts: Sequence[str]) -> str:
        """The character that `hide` is to use for these texts; "" where none of them spells a control token."""
        if not any(map(self._spelled.search, texts)):
            return ""
        used = set().union(*texts)
        return next(char for char in map(chr, range(0xE000, 0x110000)) if char not in used)  # private, so rarely used

    def hide(self, text: str, mark: str) -> str:
        """The text with `mark` behind the first character of every control token that it spells."""
        return self._beginning.sub(rf"\g<0>{mark}", text) if mark else text

    def pieces(self, rendered: str, mark: str) -> list[Piece]:
        """A rendered text in pieces: what stands between two living control tokens is plain where it holds marks."""
        if not mark or mark not in rendered:
            return [Piece(rendered, True)]
        pieces: list[Piece] = []
        alive = ""
        # Alternately what stands between living tokens and one of those.
        for number, part in enumerate(re.split(f"((?:{self._spellings})(?!{mark}))", rendered)):
            if number % 2 or mark not in part:
                alive += part
                continue
            if alive:
                pieces.append(Piece(alive, True))
            pieces.append(Piece(part.replace(mark, ""), False))
            alive = ""
        return [*pieces, Piece(alive, True)] if alive else pieces

    @cached_property
    def _spelled(self) -> re.Pattern[str]:
        return re.compile(self._spellings or r"(?!)")

    @cached_property
    def _beginning(self) -> re.Pattern[str]:
        # Looking ahead finds tokens that overlap as well: breaking one must not leave the other.
        return re.compile(f"(?=(?:{self._spellings or '(?!)'})).", re.DOTALL)


def is_control(spelling: str, special: bool) -> bool:
    """Whether an added token of a tokenizer.json is a control token.

    What is written <|…|> counts as one whatever the file says, since some say it wrong; llama.cpp's converter does so.
    """
    return special or (spelling.startswith("<|") and spelling.endswith("|>"))
