"""How well a base's tokenizer knows the words of a document: what it has no good tokens for is learned worst.

A word is a run of letters; a character of a script that sets no spaces, and any symbol, counts as one by itself.
Numbers are left out: many tokenizers take digits one by one, by intention.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from dlmbuild.data.rows import contents
from dlmbuild.data.tokenizer import Tokenizer

_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u2100-\u2bff\U0001f000-\U0001faff"  # symbols
    "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # kana, Chinese characters
)
_BETWEEN = "\\s\\d_!-/:-@[-`{-~\u00a1\u00ab\u00b7\u00bb\u00bf\u2000-\u206f\u3000-\u303f"
"""White space, digits and punctuation."""
_WORDS = re.compile(f"[{_ALONE}]|[^{_BETWEEN}{_ALONE}]+")
_KEPT = 64
"""Words of each shard that are kept by name; more than are shown, since shards are added up."""
_SHOWN = 12
_NUMBERS = ("words", "bytes", "tokens", "pieces", "unknown", "split")
_MANY = 0.05
"""The share of words that are split badly from which on a person is told."""
_FEW_BYTES = 3.0
"""Per token, below which a person is told: a tokenizer that knows a language has four or five."""


@dataclass(slots=True)
class Vocabulary:
    """What became of words, each with the space in front of it. Numbers count every time that a word is there."""

    words: int = 0
    bytes: int = 0
    tokens: int = 0
    pieces: int = 0
    """Tokens that are only a part of a character."""
    unknown: int = 0
    """Tokens that stand for what the tokenizer does not know."""
    split: int = 0
    """Words that are split badly: into more tokens than half their letters, a single character into any."""
    worst: dict[str, list[int]] = field(default_factory=dict)
    """Of these the most expensive: how often each is there, and its tokens."""

    def add(self, other: Vocabulary) -> None:
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for word, (times, tokens) in other.worst.items():
            self.worst[word] = [self.worst.get(word, [0, 0])[0] + times, tokens]

    def as_data(self) -> dict[str, Any]:
        """As JSON data, to be added up with others."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return {**numbers, "worst": _most_expensive(self.worst, _KEPT)}

    def report(self) -> dict[str, Any]:
        """As dataset.json has it: the same numbers, what they come to, and the worst words, worst first."""
        shown = _most_expensive(self.worst, _SHOWN)
        worst = [{"word": word, "times": times, "tokens": tokens} for word, (times, tokens) in shown.items()]
        return {
            **self.as_data(),
            "worst": worst,
            "bytes_per_token": round(self.bytes / max(1, self.tokens), 3),
            "split_share": round(self.split / max(1, self.words), 4),
            "piece_share": round(self.pieces / max(1, self.tokens), 4),
            "unknown_share": round(self.unknown / max(1, self.tokens), 4),
        }


def words_of(sections: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """The words of what becomes rows of sections, as document.json has them."""
    words: Counter[str] = Counter()
    for _, texts in contents(sections):
        words.update(_WORDS.findall("\n".join(texts)))
    return words


def vocabulary_of(words: Mapping[str, int], tokenizer: Tokenizer) -> Vocabulary:
    """What the tokenizer makes of these words."""
    found = Vocabulary()
    alone = re.compile(f"[{_ALONE}]")
    is_piece = cache(lambda token: "\ufffd" in tokenizer.decode([token], special=True))
    names = sorted(words)
    for word, ids in zip(names, tokenizer.within_text([w if alone.match(w) else f" {w}" for w in names]), strict=True):
        times, unknown = words[word], sum(token == tokenizer.unknown_id for token in ids)
        found.words += times
        found.bytes += times * len(word.encode() if alone.match(word) else f" {word}".encode())
        found.tokens += times * len(ids)
        found.pieces += times * sum(map(is_piece, ids))
        found.unknown += times * unknown
        if unknown or len(ids) > (1 if len(word) == 1 else max(2, (len(word) + 1) // 2)):
            found.split += times
            found.worst[word] = [times, len(ids)]
    found.worst = _most_expensive(found.worst, _KEPT)
    return found


def told(report: Mapping[str, Any]) -> str:
    """A report in words."""
    if not report["words"]:
        return "no words"
    text = (
        f"{report['bytes_per_token']:.1f} bytes of a word per token, {report['split_share']:.1%} of words split badly"
    )
    for share, what in (("piece_share", "tokens are parts of characters"), ("unknown_share", "tokens are unknown")):
        text += f", {report[share]:.1%} of {what}" if report[share] else ""
    worst = ", ".join(f"{one['word']} ({one['tokens']})" for one in report["worst"][:5])
    return f"{text}; into most tokens: {worst}" if worst else text


def is_gap(report: Mapping[str, Any]) -> bool:
    """Whether the base's tokenizer is a bad one for these words, so that a person should know."""
    bad = report["split_share"] >= _MANY or report["unknown"] > 0 or report["bytes_per_token"] < _FEW_BYTES
    return bool(report["words"]) and bad


def _most_expensive(worst: Mapping[str, Sequence[int]], most: int) -> dict[str, list[int]]:
    order = sorted(worst, key=lambda word: (-worst[word][0] * worst[word][1], word))
    return {word: list(worst[word]) for word in order[:most]}
