"""The base's tokenizer, brought up for training with `tokenizers` alone: 0.03 s to import, transformers takes 2.5.

The padding token differs from the tokens that end a text or a turn (else a model can learn never to stop) and is always
one that the vocabulary has already: a grown vocabulary would change every export.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlmbuild.data.template import ChatTemplate, special_tokens
from dlmbuild.errors import BaseModelError
from dlmbuild.io.json_file import read_json_object

_PADDING = ("<|finetune_right_pad_id|>", "<|pad|>", "<pad>", "[PAD]", "<|endoftext|>", "<unk>", "<|unk|>")
"""Spellings of tokens made for padding or harmless as such, best first."""


@dataclass(frozen=True)
class Tokenizer:
    """Text ↔ ids of one base."""

    _tokens: Any
    template: ChatTemplate
    pad_id: int
    eos_id: int
    """Ends a text."""
    turn_end_ids: tuple[int, ...]
    """What an answer ends with."""

    @classmethod
    def from_base(cls, folder: Path) -> Tokenizer:
        """Load from a checkpoint folder. Raises BaseModelError for a tokenizer that cannot be trained with."""
        from tokenizers import Tokenizer as Tokens

        try:
            tokens = Tokens.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises plain Exception for a damaged file
            raise BaseModelError(f"the base's tokenizer cannot be read: {error}") from None
        # The file may hold somebody's settings for batches; rows are never cut off or filled up here.
        tokens.no_truncation()
        tokens.no_padding()
        config = read_json_object(folder / "tokenizer_config.json", BaseModelError)
        template = ChatTemplate.from_base(folder)
        turn_end_ids = tuple(tokens.encode(template.turn_end, add_special_tokens=False).ids)
        eos_id = tokens.token_to_id(special_tokens(config).get("eos_token", ""))
        if eos_id is None:
            raise BaseModelError("the base's tokenizer names no end-of-text token (eos_token)")
        pad_id = _padding(tokens, special_tokens(config).get("pad_token"), {eos_id, *turn_end_ids})
        return cls(tokens, template, pad_id, eos_id, turn_end_ids)

    @property
    def stop_ids(self) -> list[int]:
        """Tokens after which nothing more is said: the end of a text, and that of a turn if one token marks it."""
        return [self.eos_id, *(self.turn_end_ids if len(self.turn_end_ids) == 1 else ())]

    def encode(self, text: str) -> list[int]:
        """Ids of a text that holds whatever special tokens it needs; none are added."""
        ids: list[int] = self._tokens.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        text: str = self._tokens.decode(list(ids), skip_special_tokens=not special)
        return text


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
