"""The loss on what is held out, after each epoch, and the adapter of the epoch in which it was least."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dlmbuild.data.rows import Row
from dlmbuild.io.atomic import write_atomic
from dlmbuild.io.digest import readable_json
from dlmbuild.train.determinism import rank
from dlmbuild.train.model import adapter_weights, begin_with
from dlmbuild.train.packing import Packing, learned_tokens


class Validation:
    """The rows that are held out and what they cost in each epoch.

    What is known lies in `folder`, which an interrupted training leaves to the next attempt. Everything there is what
    any attempt finds at the same epoch, so that it does not matter which one wrote it; of several processes all find
    the same, and the first one writes.
    """

    def __init__(self, rows: Sequence[Row], plan: Mapping[str, Any], folder: Path, packing: Packing) -> None:
        self.rows = rows
        self._patience, self._batch = plan["early_stopping"], plan["micro_batch_size"]
        self._packing = packing
        self._epochs: dict[int, float] = {}
        self._notes, self._best = folder / "validation.json", folder / "best.safetensors"

    def measure(self, model: Any, epoch: int) -> tuple[dict[str, float], bool]:
        """The mean loss of a learned token after `epoch` (from 1), also by kind of row; whether to stop here."""
        from safetensors.torch import save

        found = self._losses(model)
        epochs = self._epochs = {**self._known(), epoch: found["loss"]}
        best = self.best_epoch(epochs)
        if not rank():
            if self._patience and best == epoch:
                write_atomic(self._best, save(adapter_weights(model)))
            write_atomic(self._notes, readable_json({str(at): loss for at, loss in sorted(epochs.items())}))
        return found, bool(self._patience) and epoch - best >= self._patience

    def finish(self, model: Any, epochs: int) -> dict[str, Any]:
        """Give the model the best epoch's adapter if the training may stop early; returns numbers for the record."""
        known = self._known()
        kept = self.best_epoch(known) if self._patience else epochs
        if self._patience and not rank():
            begin_with(model, self._best)
        return {"validation_rows": len(self.rows), "validation_loss": round(known[kept], 6), "kept_epoch": kept}

    @staticmethod
    def best_epoch(epochs: Mapping[int, float]) -> int:
        """The first with the least loss."""
        return min(epochs, key=lambda at: (epochs[at] if math.isfinite(epochs[at]) else math.inf, at))

    def _known(self) -> dict[int, float]:
        if self._epochs:
            return self._epochs
        try:
            return {int(at): float(loss) for at, loss in json.loads(self._notes.read_bytes()).items()}
        except (OSError, ValueError):
            return {}

    def _losses(self, model: Any) -> dict[str, float]:
        """Mean over the learned tokens, of all rows under "loss" and of each kind of row."""
        import torch

        sums: dict[str, list[float]] = {}
        training = model.training
        model.eval()
        with torch.no_grad():
            for start in range(0, len(self.rows), self._batch):
                rows = self.rows[start : start + self._batch]
                found = self._packing.likelihoods(model, rows, [learned_tokens(row) for row in rows])
                for row, likelihood in zip(rows, found, strict=True):
                    loss = -likelihood.sum().item()
                    for kind in ("loss", row.kind):
                        total = sums.setdefault(kind, [0.0, 0.0])
                        total[0] += loss
                        total[1] += len(row.learned)
        model.train(training)
        return {kind: total / max(1.0, count) for kind, (total, count) in sums.items()}
