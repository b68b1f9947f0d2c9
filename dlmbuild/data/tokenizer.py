"""The base's tokenizer, brought up for training with `tokenizers` alone: 0.03 s to import, transformers takes 2.5.

The padding token differs from the tokens that end a text or a turn (else a model can learn never to stop) and is always
one that the vocabulary has already: a grown vocabulary would change every export. Control tokens that a person wrote
are text: see data/control.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dlmbuild.data.control import ControlTokens, Piece, is_control
from dlmbuild.data.template import ChatTemplate, Message, special_tokens
from dlmbuild.errors import BaseModelError, Where
from dlmbuild.io.json_file import read_json_object

_PADDING = ("<|finetune_right_pad_id|>", "<|pad|>", "<pad>", "[PAD]", "<|endoftext|>", "<unk>", "<|unk|>")
"""Spellings of tokens made for padding or harmless as such, best first."""
_BEFORE = "x"
"""What stands before a text: some tokenizers set a space in front of what begins one."""
SPACES = ("Ġ", "▁")
"""What vocabularies write for a space: those of bytes, and those of sentencepiece."""
_ANOTHER = "take another base, or name the token in its tokenizer_config.json"


@dataclass(frozen=True)
class Tokenizer:
    """Text ↔ ids of one base."""

    _tokens: Any
    template: ChatTemplate
    control: ControlTokens
    pad_id: int
    eos_id: int
    """Ends a text."""
    turn_end_ids: tuple[int, ...]
    """What an answer ends with."""

    @classmethod
    def from_base(cls, folder: Path) -> Tokenizer:
        """Load from a checkpoint folder. Raises BaseModelError for a tokenizer that cannot be trained with."""
        tokens = _load(folder / "tokenizer.json")
        # The file may hold somebody's settings for batches; rows are never cut off or filled up here.
        tokens.no_truncation()
        tokens.no_padding()
        control = ControlTokens(t.content for t in tokens.get_added_tokens_decoder().values() if t.special)
        config = read_json_object(folder / "tokenizer_config.json", BaseModelError)
        template = ChatTemplate.from_base(folder)
        turn_end_ids = tuple(tokens.encode(template.turn_end, add_special_tokens=False).ids)
        eos_id = tokens.token_to_id(special_tokens(config).get("eos_token", ""))
        if eos_id is None:
            raise BaseModelError("the base's tokenizer names no end-of-text token (eos_token)", do=_ANOTHER)
        pad_id = _padding(tokens, special_tokens(config).get("pad_token"), {eos_id, *turn_end_ids})
        return cls(tokens, template, control, pad_id, eos_id, turn_end_ids)

    @property
    def stop_ids(self) -> list[int]:
        """Tokens after which nothing more is said: the end of a text, and that of a turn if one token marks it."""
        return [self.eos_id, *(self.turn_end_ids if len(self.turn_end_ids) == 1 else ())]

    @cached_property
    def longest_token(self) -> int:
        """The most characters that one token can stand for."""
        return max(map(len, self._tokens.get_vocab()))

    def encode(self, text: str, *, control: bool = False) -> list[int]:
        """Ids of a text, none added. Control tokens that it spells are text unless `control` is true."""
        ids: list[int] = self._encoding(text, control).ids
        return ids

    def _encoding(self, text: str, control: bool) -> Any:
        self._tokens.encode_special_tokens = not control
        return self._tokens.encode(text, add_special_tokens=False)

    def within_text(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text as it is in the middle of another one."""
        self._tokens.encode_special_tokens = True
        before = len(self._tokens.encode(_BEFORE, add_special_tokens=False).ids)
        found = self._tokens.encode_batch([_BEFORE + text for text in texts], add_special_tokens=False)
        return [one.ids[before:] for one in found]

    @cached_property
    def unknown_id(self) -> int | None:
        """What stands for text that the vocabulary has nothing for; None where there is always something."""
        model = self._tokens.model
        name = getattr(model, "unk_token", None)
        found: int | None = self._tokens.token_to_id(name) if name else getattr(model, "unk_id", None)
        return found

    def encode_pieces(self, pieces: Iterable[Piece]) -> list[int]:
        """Ids of a rendered conversation."""
        return [token for piece in pieces for token in self.encode(piece.text, control=piece.control)]

    def encode_with_words(self, pieces: Iterable[Piece], text: str) -> tuple[list[int], tuple[int, ...]]:
        """Ids of pieces; and where among them each word of a text begins that stands in one, and where the last ends.

        Nothing where the tokens do not show it: the text is not there as it is, or its end shares a token.
        """
        ids: list[int] = []
        found: tuple[int, ...] = ()
        for piece in pieces:
            encoding = self._encoding(piece.text, piece.control)
            if (start := piece.text.rfind(text)) >= 0:
                begins = [start + word.start() for word in re.finditer(r"\S+", text)]
                found = tuple(len(ids) + at for at in _token_bounds(encoding.offsets, begins, start + len(text)))
            ids += encoding.ids
        return ids, found

    @cached_property
    def whole_words(self) -> dict[int, str]:
        """The tokens that are words of letters, as the vocabulary has them: with or without a space in front."""
        return {
            token: text for text, token in self._tokens.get_vocab().items() if text[text.startswith(SPACES) :].isalpha()
        }

    def question(self, messages: Sequence[Message]) -> list[Piece]:
        """A conversation as the model is asked, up to the point where it begins to answer."""
        mark, hidden = self._hidden(messages)
        return self.control.pieces(self.template.render(hidden, ask=True), mark)

    def answer(self, messages: Sequence[Message]) -> tuple[list[Piece], list[Piece]]:
        """A conversation that ends with an answer: (what is given, what is learned), see `ChatTemplate.answer`."""
        mark, hidden = self._hidden(messages)
        given, learned = self.template.answer(hidden)
        return self.control.pieces(given, mark), self.control.pieces(learned, mark)

    def _hidden(self, messages: Sequence[Message]) -> tuple[str, list[Message]]:
        mark = self.control.mark([message["content"] for message in messages])
        return mark, [{**message, "content": self.control.hide(message["content"], mark)} for message in messages]

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        text: str = self._tokens.decode(list(ids), skip_special_tokens=not special)
        return text


def _token_bounds(offsets: Sequence[tuple[int, int]], begins: Sequence[int], end: int) -> list[int]:
    """The first token of each word that begins at these characters, and the token after the last one; [] if it has no
    token of its own."""
    after = next((token for token, (start, _) in enumerate(offsets) if start >= end), len(offsets))
    if not begins or after == 0 or offsets[after - 1][1] > end:
        return []
    firsts = {next(token for token, (_, stop) in enumerate(offsets) if stop > begin) for begin in begins}
    return [*sorted(firsts), after]


def _load(file: Path) -> Any:
    """The library's tokenizer, in which every control token is marked as special."""
    from tokenizers import Tokenizer as Tokens

    try:
        tokens = Tokens.from_file(str(file))
        added = tokens.get_added_tokens_decoder().values()
        scheme = getattr(tokens.pre_tokenizer, "prepend_scheme", None)
        if scheme != "first" and all(is_control(t.content, t.special) == t.special for t in added):
            return tokens
        data = read_json_object(file, BaseModelError)
        for one in data["added_tokens"]:
            one["special"] = is_control(one["content"], one["special"])
        if scheme == "first":
            # A space in front of what begins a conversation, where a control token is: none, as llama.cpp is told.
            data["pre_tokenizer"]["prepend_scheme"] = "never"
        return Tokens.from_str(json.dumps(data))
    except Exception as error:  # the library raises plain Exception for a damaged file
        raise BaseModelError("the base's tokenizer cannot be read", where=Where(str(file)), why=str(error)) from None


def _padding(tokens: Any, named: str | None, ends: set[int]) -> int:
    added = sorted(tokens.get_added_tokens_decoder().items())
    reserved = [t.content for _, t in added if t.special and "reserved" in t.content]
    others = [t.content for _, t in added if t.special]
    for text in (named, *_PADDING, *reserved, *others):
        found = tokens.token_to_id(text) if text else None
        if found is not None and found not in ends:
            return int(found)
    raise BaseModelError(
        "the base's tokenizer has no token left to pad with",
        why="each of its special tokens ends a text or a turn, and padding with those teaches a model never to stop",
        do="take another base, or one with reserved tokens",
    )
