"""What makes two trainings of the same rows give the same bytes, inside the process.

The environment variables that must be set before torch is loaded are in jobs/environment.py. Recipe:
https://docs.pytorch.org/docs/stable/notes/randomness.html
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def make_deterministic(seed: int, threads: int) -> None:
    """Seed every generator, fix the thread pools, and forbid kernels that are not deterministic."""
    import torch
    from transformers import set_seed

    torch.set_num_threads(threads)
    # Not warn_only: with it, attention's backward pass keeps its nondeterministic kernels.
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    set_seed(seed)


class EpochOrder:
    """The order of rows in each epoch, a pure function of (seed, epoch): a resumed training needs no sampler state."""

    def __init__(self, rows: int, seed: int) -> None:
        self._rows, self._seed, self._epoch = rows, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called as each epoch begins."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[int]:
        import torch

        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        order: list[int] = torch.randperm(self._rows, generator=generator).tolist()
        return iter(order)


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
