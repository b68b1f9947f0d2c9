"""Several rows as one sequence, in which tokens that have the same past are there once.

Questions begin alike, with what the chat template and the system prompt say, and what a decoder computes of a token
depends on its past alone. So the beginning is computed once for all rows of a batch, and nothing is filled up. Each
token sees the past of its own row only, at the positions that it has there. A tree of tokens with such a mask: Miao et
al. 2023 (SpecInfer, arXiv 2305.09781), section 4.2.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Any, NamedTuple

from dlmbuild.data.rows import Row
from dlmbuild.hardware.memory import Load
from dlmbuild.train import attention
from dlmbuild.train.likelihood import log_likelihood

MOST = 2048
"""Tokens of a sequence, unless a single row has more: attention costs their square, even where the mask forbids it."""
_TOLERANCE = 0.05
"""Of the spread of logits, in the mean: rounding in half precision stays below; who sees another row is far above."""
_TRIED = 24
"""Tokens that the two rows of a trial share, and as many that they do not."""


class Packed(NamedTuple):
    """Rows as one sequence."""

    ids: list[int]
    positions: list[int]
    """Of each token, in its row."""
    places: list[list[int]]
    """Of each row: where its tokens are, from the first to the last."""

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> Packed:
        ids: list[int] = []
        positions: list[int] = []
        places: list[list[int]] = [[] for _ in rows]
        last: Sequence[int] = ()
        path: list[int] = []
        # Sorted, a row shares more with its neighbours than with any other.
        for row in sorted(range(len(rows)), key=lambda row: tuple(rows[row])):
            tokens = rows[row]
            shared = 0
            while shared < min(len(last), len(tokens)) and last[shared] == tokens[shared]:
                shared += 1
            path = [*path[:shared], *range(len(ids), len(ids) + len(tokens) - shared)]
            ids += tokens[shared:]
            positions += range(shared, len(tokens))
            places[row], last = path, tokens
        return cls(ids, positions, places)

    def mask(self) -> Any:
        """What sees what: booleans of (tokens, tokens)."""
        import torch

        seen = torch.zeros(len(self.ids), len(self.ids), dtype=torch.bool)
        for path in self.places:
            where = torch.tensor(path, dtype=torch.long)
            seen[where[:, None], where] |= torch.ones(len(path), len(path), dtype=torch.bool).tril()
        return seen


class Packing:
    """How rows are given to a decoder of transformers."""

    def __init__(self, model: Any) -> None:
        """Tries the model: one that computes something else of packed rows than of single ones gets single ones."""
        config = model.config.get_text_config()
        self._kinds = set(getattr(config, "layer_types", None) or ())
        self._window = getattr(config, "sliding_window", None)
        self._device, self._dtype = model.device, model.dtype
        self._attention = config._attn_implementation  # the one that was chosen, where the model's default was
        self.shares = (
            self._attention in ("sdpa", "eager", attention.NAME)  # others take no mask of their own
            and self._kinds <= {"full_attention", "sliding_attention"}
            and self._as_alone(model)
        )
        """Whether rows are packed."""
        self.announce: Callable[[Packed, Sequence[Sequence[int]]], None] | None = None
        """Told of what each sequence consists, before it is computed: where something stands for the lowest layers."""

    def groups(self, rows: Sequence[Row]) -> Iterator[list[int]]:
        """The numbers of the rows that go together, of at most `MOST` tokens."""
        return grouped([len(row.ids) for row in rows], MOST if self.shares else 0)

    def likelihoods(self, model: Any, rows: Sequence[Row], asked: Sequence[Any]) -> Iterator[Any]:
        """Of each row the logarithms of how likely a model takes tokens to be, at each place where one is learned.

        `asked` has them, and what is given has the same shape: (places, any number of tokens) for each row.
        """
        import torch

        for group in self.groups(rows):
            logits = self.logits(model, [rows[at] for at in group])
            widths = [asked[at].shape[1] for at in group]
            # What is narrower is asked for its first token again and again.
            tokens = [
                torch.cat([asked[at], asked[at][:, :1].expand(-1, max(widths) - width)], 1)
                for at, width in zip(group, widths, strict=True)
            ]
            found = log_likelihood(logits, torch.cat(tokens).to(logits.device)).split([len(one) for one in tokens])
            yield from (one[:, :width] for one, width in zip(found, widths, strict=True))

    def logits(self, model: Any, rows: Sequence[Row]) -> Any:
        """What a model, wrapped for training or not, says of the learned tokens of rows that go together.

        A tensor of (tokens, vocabulary), one row after the other.
        """
        ids = [row.ids for row in rows]
        packed = Packed.of(ids)
        if self.announce:
            self.announce(packed, ids)
        paths = zip(packed.places, rows, strict=True)
        return self._run(model, packed, [place for path, row in paths for place in path[row.first - 1 : -1]])

    def inputs(self, packed: Packed) -> dict[str, Any]:
        """What a model is given of packed rows."""
        import torch

        given = {"input_ids": torch.tensor([packed.ids], device=self._device), "use_cache": False}
        if len(packed.places) > 1:  # what a single row is, every model knows by itself
            given["attention_mask"] = self.masks(packed.mask(), packed.positions, packed.positions)
            given["position_ids"] = torch.tensor([packed.positions], device=self._device)
        return given

    def _run(self, model: Any, packed: Packed, places: Sequence[int]) -> Any:
        import torch

        where = torch.tensor(places, dtype=torch.long, device=self._device)
        # Not [0]: the gradient of a slice is as large as the whole.
        return model(**self.inputs(packed), logits_to_keep=where).logits.squeeze(0)

    def masks(self, seen: Any, positions: Sequence[int], all_positions: Sequence[int]) -> Any:
        """What sees what, booleans of (tokens, all tokens), as a model with layers of these kinds takes it.

        The tokens are at `positions`, what they see at `all_positions`.
        """
        import torch

        near = seen
        if self._window:
            here, there = torch.tensor(positions), torch.tensor(all_positions)
            near = seen & (here[:, None] - there < self._window)
        whole, close = (mask[None, None].to(self._device) for mask in (seen, near))
        if self._attention == "eager":  # adds it to the scores
            least = torch.finfo(self._dtype).min
            whole, close = (torch.where(mask, 0.0, least).to(self._dtype) for mask in (whole, close))
        if len(self._kinds) > 1:
            return {"full_attention": whole, "sliding_attention": close}
        return whole if self._kinds == {"full_attention"} else close

    def _as_alone(self, model: Any) -> bool:
        """Whether the model gives the same logits for two rows that are packed as for each alone."""
        import torch

        vocabulary = model.config.get_text_config().vocab_size
        same, *rest = ([number * step % vocabulary for number in range(_TRIED)] for step in (7919, 104729, 1299709))
        packed = Packed.of([[*same, *other] for other in rest])
        training = model.training
        model.eval()
        with torch.no_grad():
            try:
                together = self._run(model, packed, range(len(packed.ids)))
            except (TypeError, ValueError, RuntimeError, KeyError):  # it takes no such mask, or no positions
                return False
            alone = [self._run(model, Packed.of([[*same, *other]]), range(2 * _TRIED)) for other in rest]
        model.train(training)
        pairs = [(together[path].float(), one.float()) for path, one in zip(packed.places, alone, strict=True)]
        return all(((both - one).abs().mean() <= _TOLERANCE * one.std()).item() for both, one in pairs)


def largest_load(rows: Iterable[Row], texts: Iterable[Row], plan: Mapping[str, Any]) -> Load:
    """That of the longest rows of a training, with the longest texts of the retention set beside them."""
    size, wordings = plan["micro_batch_size"], plan["wordings"]
    together: list[Row] = []
    for row in heapq.nlargest(size, rows, key=lambda row: len(row.ids)):
        # Wordings are alike up to the first word that one of them lacks.
        apart = wordings if row.words else 1
        together += [replace(row, ids=_alike(row.ids, row.words[0], at) if at else row.ids) for at in range(apart)]
    together = together[:size]
    together += heapq.nlargest(plan["retention_rows"], texts, key=lambda row: len(row.ids))
    groups = list(grouped([len(row.ids) for row in together], MOST))
    tokens = sum(len(Packed.of([together[at].ids for at in group]).ids) for group in groups)
    outputs = sum(len(row.learned) for row in together)
    return Load(len(groups), ceil(tokens / len(groups)), outputs, masks=len(together) > 1)


def _alike(ids: Sequence[int], until: int, number: int) -> tuple[int, ...]:
    return (*ids[:until], *(-number for _ in ids[until:]))


def grouped(lengths: Iterable[int], most: int) -> Iterator[list[int]]:
    """The numbers of the rows that go together, of at most `most` tokens; a longer one goes alone."""
    together: list[int] = []
    tokens = 0
    for number, length in enumerate(lengths):
        if together and tokens + length > most:
            yield together
            together, tokens = [], 0
        together.append(number)
        tokens += length
    if together:
        yield together


def learned_tokens(row: Row) -> Any:
    """What is asked of a row whose own tokens are learned: a tensor of (places, 1)."""
    import torch

    return torch.tensor(row.learned, dtype=torch.long)[:, None]
