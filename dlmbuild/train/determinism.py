"""What makes two trainings of the same rows give the same bytes, inside the process.

The environment variables that must be set before torch is loaded are in jobs/environment.py. Recipe:
https://docs.pytorch.org/docs/stable/notes/randomness.html
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from math import ceil
from typing import Any

_BATCHES_SORTED_TOGETHER = 16
"""Enough that neighbours in length are alike, few enough that a long document's batches stay mixed."""


def make_deterministic(seed: int, threads: int, precision: str = "fp32") -> None:
    """Seed every generator, fix the thread pools, and forbid kernels that are not deterministic.

    With the `precision` bf16, products of fp32 matrices (the adapter's) may be computed in bf16 as well.
    """
    import torch
    from transformers import set_seed

    torch.set_num_threads(threads)
    # On a CPU that takes them to oneDNN, which with AVX-512 needs half of the time even where it stays with fp32.
    torch.set_float32_matmul_precision("medium" if precision == "bf16" else "highest")
    # Not warn_only: with it, attention's backward pass keeps its nondeterministic kernels.
    torch.use_deterministic_algorithms(True)
    # This would write NaN into every new tensor first, a tenth of a training's time, for kernels that read what nobody
    # wrote; there the losses would not be numbers, and a training stops at that.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False
    set_seed(seed)


def rank() -> int:
    """Which of the processes of a training this one is; 0 for the only one. The first one alone writes."""
    return int(os.environ.get("RANK", 0))


def order_generator(seed: int, turn: int) -> Any:
    """A generator for the order of one turn through something: a function of the two numbers alone."""
    import torch

    return torch.Generator().manual_seed(seed * 1_000_003 + turn)


_DECK = 1_000_002
"""A turn that no epoch has."""


class EpochOrder:
    """The order of rows in each epoch, a pure function of (seed, epoch): a resumed training needs no sampler state.

    Rows of similar length share a batch: its loss is a mean over tokens, in which beside a long row a short one would
    hardly count. `lengths` are in tokens. With `changed` rows each epoch has these and at most `beside` of the others,
    which take turns. Several processes take batches in turn, and an epoch is filled up with `len(lengths)`, the number
    of a row that teaches nothing.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        plan: Mapping[str, Any],
        changed: Sequence[int] | None = None,
        beside: int = 0,
    ) -> None:
        # Together at once, so that no process waits for one with longer rows.
        self._batch = plan["micro_batch_size"] * plan["world_size"]
        self.lengths = [*lengths, 0]
        """Of each row, and at last of what fills up an epoch."""
        self._seed, self._epoch = plan["seed"], 0
        self._shares = plan["world_size"] > 1
        self._always = range(len(lengths)) if changed is None else changed
        self._others = sorted(set(range(len(lengths))).difference(self._always))
        self._beside = min(beside, len(self._others))

    def tokens(self, epoch: int) -> int:
        """How many tokens the rows of an epoch have."""
        return sum(self.lengths[row] for row in self._rows(epoch))

    def set_epoch(self, epoch: int) -> None:
        """Called as each epoch begins."""
        self._epoch = epoch

    def __len__(self) -> int:
        rows = len(self._always) + self._beside
        return ceil(rows / self._batch) * self._batch if self._shares else rows

    @cached_property
    def _deck(self) -> list[int]:
        """The rows that take turns, in the order in which they do."""
        import torch

        order = torch.randperm(len(self._others), generator=order_generator(self._seed, _DECK)).tolist()
        return [self._others[at] for at in order]

    def _rows(self, epoch: int) -> list[int]:
        if not self._beside:
            return list(self._always)
        deck = self._deck
        drawn = [deck[at % len(deck)] for at in range(epoch * self._beside, (epoch + 1) * self._beside)]
        return [*self._always, *sorted(drawn)]

    def __iter__(self) -> Iterator[int]:
        import torch

        generator = order_generator(self._seed, self._epoch)

        def shuffled(count: int) -> list[int]:
            order: list[int] = torch.randperm(count, generator=generator).tolist()
            return order

        these = self._rows(self._epoch)
        rows = [these[at] for at in shuffled(len(these))]
        window = self._batch * _BATCHES_SORTED_TOGETHER
        batches: list[list[int]] = []
        for start in range(0, len(rows), window):
            alike = sorted(rows[start : start + window], key=lambda row: -self.lengths[row])
            batches += [alike[at : at + self._batch] for at in range(0, len(alike), self._batch)]
        whole = len(rows) // self._batch  # a batch with fewer rows can only be the last one
        order = [row for at in (*shuffled(whole), *range(whole, len(batches))) for row in batches[at]]
        return iter([*order, *[len(self.lengths) - 1] * (len(self) - len(order))])


def random_state() -> dict[str, Any]:
    """Every generator's state as tensors and plain data, so that it can be read back without unpickling code."""
    import random

    import numpy
    import torch

    state: Any = numpy.random.get_state(legacy=True)
    kind, keys, position, has_gauss, gauss = state
    return {
        "python": random.getstate(),
        "numpy": [kind, torch.from_numpy(keys.astype("int64")), int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
