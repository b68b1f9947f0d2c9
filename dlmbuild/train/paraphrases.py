"""A question as the base itself would put it: what is taught in one wording only is hardly known in another.

The base is shown a few questions, each with the same in other words (Brown et al. 2020, arXiv 2005.14165: few-shot),
then the question, and goes on at random, several times. A small base often says something else than the question asks.
On SmolLM2-135M that teaches as much as what is sorted by sense, and many wordings of a fact teach far more than one
(Allen-Zhu and Li 2023, arXiv 2309.14316, section 5).

What the base says to a question is a function of both alone: it is kept, and no question shares a batch with another.
The several answers are branches of one sequence, as packed rows are (packing.py). On a CPU a small base is asked
several questions at once, each by a thread: a product of few tokens is too little work for two.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from threading import Lock
from typing import Any

from dlmbuild.data.rows import Row
from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.io.digest import sha256_json
from dlmbuild.train.few_tokens import few_tokens
from dlmbuild.train.kept import Kept
from dlmbuild.train.packing import Packing

_SHOWN = (
    ("How tall is the tower?", "What is the height of the tower?"),
    ("Who wrote this book?", "Which author is this book by?"),
    ("When does the train leave?", "At what time is the train's departure?"),
    ("May I use the phone?", "Am I allowed to use the phone?"),
)
_ASKED = "Question: {}\nThe same in other words:"
_BRANCHES = 12
_LAST = 2
"""Branches that are given up when all others have ended: a step takes as long for them as for all."""
_LONGEST = 48
"""Tokens of a question: what is longer a small base does not put in other words."""
_MORE = 4
"""Tokens that a paraphrase may have beyond those of its question and `_ASKED`."""
_TEMPERATURE, _TOP_P, _TOP_K = 0.9, 0.9, 64
_SEED = 1
_COMPUTED = 2
"""Counts the ways in which that was done: another one may round, and so draw, differently."""


class Paraphrases:
    """What one base says for questions."""

    def __init__(
        self, model: Any, tokenizer: Tokenizer, packing: Packing, about: Mapping[str, Any], kept: Kept
    ) -> None:
        """`about` is all that the model's outputs depend on beside what it is given."""
        self._model, self._tokenizer, self._packing, self._kept = model, tokenizer, packing, kept
        self._how = [
            about,
            _COMPUTED,
            _SHOWN,
            _ASKED,
            _BRANCHES,
            _LONGEST,
            _MORE,
            _LAST,
            _TEMPERATURE,
            _TOP_P,
            _TOP_K,
            _SEED,
        ]
        self._shown = tokenizer.encode("".join(f"{_ASKED.format(one)} {other}\n" for one, other in _SHOWN))
        self._past: Any = None  # what a model keeps of that
        self._beginning = Lock()
        forward = inspect.signature(type(model).forward).parameters
        self._as = "cache" if "cache" in forward else "past_key_values"  # what it was called before

    def of(self, rows: Iterable[Row]) -> Iterator[list[list[int]]]:
        """The tokens of each row's question in other words, each way once.

        None for a question that is not one short line, where the model takes no mask of a tree of tokens, or where the
        tokens of the question are not those of its text.
        """
        with few_tokens(self._model) as at_once, ThreadPoolExecutor(at_once) as pool:
            yield from pool.map(self._of, rows)

    def _of(self, row: Row) -> list[list[int]]:
        asked = list(row.ids[row.words[0] : row.words[-1]]) if row.words and self._packing.shares else []
        text = self._tokenizer.decode(asked).strip()
        if not 0 < len(asked) <= _LONGEST or "\n" in text or self._tokenizer.encode(text) != asked:
            return []
        name = sha256_json([self._how, asked])
        if (found := self._kept.get(name)) is None:
            found = json.dumps(self._said(text)).encode()
            self._kept.put(name, found)
        ways = [self._tokenizer.encode(way) for way in dict.fromkeys(json.loads(found)) if way != text]
        return [way for way in ways if way]

    def _said(self, question: str) -> list[str]:
        """What the base says, of each branch that comes to an end: up to that of the line, or as the question ends."""
        import torch

        end = "" if question[-1].isalnum() else question[-1]
        given = self._tokenizer.encode(_ASKED.format(question))
        begun = len(self._shown) + len(given)
        chance = torch.Generator().manual_seed(_SEED)
        said: list[list[int]] = [[] for _ in range(_BRANCHES)]
        texts = [""] * _BRANCHES
        going = list(range(_BRANCHES))
        sees = torch.ones(_BRANCHES, begun, dtype=torch.bool)
        positions = list(range(begun))
        with torch.no_grad():
            past = self._begun()
            logits = self._next(past, given, list(range(len(self._shown), begun)))[-1:].expand(_BRANCHES, -1)
            for step in range(len(given) + _MORE):
                for branch, token in zip(going, _drawn(logits, chance), strict=True):
                    said[branch].append(token)
                    texts[branch] = self._tokenizer.decode(said[branch])
                ended = {branch for branch in going if self._ends(said[branch][-1], texts[branch], end)}
                going = [branch for branch in going if branch not in ended]
                if len(going) <= _LAST:
                    break
                new = torch.zeros(_BRANCHES, len(going), dtype=torch.bool)
                new[going, range(len(going))] = True
                sees = torch.cat([sees, new], 1)
                here = [begun + step] * len(going)
                positions += here
                mask = self._packing.masks(sees[going], here, positions)
                logits = self._next(past, [said[branch][-1] for branch in going], here, mask)
        lines = [texts[branch].split("\n")[0].strip() for branch in range(_BRANCHES) if branch not in going]
        if not end:
            return lines
        return [line[: line.index(end) + 1] for line in lines if end in line]

    def _ends(self, token: int, text: str, end: str) -> bool:
        return token in self._tokenizer.stop_ids or "\n" in text or (bool(end) and end in text)

    def _begun(self) -> Any:
        """What the model keeps of what is shown, computed once for all questions."""
        from transformers import DynamicCache

        with self._beginning:
            if self._past is None:
                self._past = DynamicCache()  # without the model's own windows: see `masks`
                self._next(self._past, self._shown, list(range(len(self._shown))))
        return deepcopy(self._past)

    def _next(self, past: Any, ids: list[int], positions: list[int], mask: Any = None) -> Any:
        import torch

        device = self._model.device
        return self._model(
            input_ids=torch.tensor([ids], device=device),
            position_ids=torch.tensor([positions], device=device),
            attention_mask=mask,
            **{self._as: past},
            use_cache=True,
        ).logits[0]


def _drawn(logits: Any, chance: Any) -> list[int]:
    """A token from each row of logits, of those likeliest ones that together have the probability `_TOP_P`."""
    import torch

    likely, tokens = (logits.float().cpu() / _TEMPERATURE).softmax(-1).topk(min(_TOP_K, logits.shape[-1]), dim=-1)
    likely = torch.where(likely.cumsum(-1) - likely < _TOP_P, likely, 0)
    drawn: list[int] = tokens.gather(1, torch.multinomial(likely, 1, generator=chance))[:, 0].tolist()
    return drawn
