"""A few real training steps on a document's own rows, to see how long they take here and how much memory they need.

Nothing of it is kept: the adapter that comes out is thrown away.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import Any

from dlmbuild.data.rows import Row
from dlmbuild.data.shards import read_rows
from dlmbuild.io.progress import Progress
from dlmbuild.train.prefix import FREEZING
from dlmbuild.train.sft import fit
from dlmbuild.train.wordings import PARAPHRASING, wordings

STEPS = 6
"""The first is left out of the time: it is slower than all that follow."""


def calibrate(
    *,
    base: Path,
    dataset: Path,
    plan: Mapping[str, Any],
    base_identity: Mapping[str, Any],
    out: Path,
    progress: Progress,
    retention: Path | None = None,
) -> dict[str, Any]:
    """Train `STEPS` steps of the plan, or one epoch where that is less; returns what was measured.

    `seconds_per_step`; `seconds_before`, what a first training of all the rows takes for questions in other words and
    for what frozen layers give, which later ones find kept; `peak`, what the training took at its peak, in bytes, and
    of that `runtime`, what the process held before the base was loaded. `peak` is 0 where the system does not tell.
    """
    rows, index = list(read_rows(dataset)), json.loads(dataset.read_bytes())
    per_step = plan["micro_batch_size"] * plan["grad_accum"]
    some, clock = sample(rows, STEPS * per_step, plan), _Clock(progress)
    version, log = out / "version", out / "steps.jsonl"
    version.mkdir()
    runtime = _loaded(plan["device"])
    fit(
        some,
        index["pad_id"],
        system_prompt=index.get("system_prompt"),
        base=base,
        log=log,
        checkpoints=out / "checkpoints",
        plan={**plan, "num_epochs": 1},
        base_identity=base_identity,
        checkpoint_seconds=float("inf"),
        out=version,
        progress=clock,
        retention=retention,
    )
    ends = [line["elapsed_s"] for line in map(json.loads, log.read_text("utf-8").splitlines()) if "elapsed_s" in line]
    seconds = (ends[-1] - ends[0]) / (len(ends) - 1) if len(ends) > 1 else ends[0]
    return {
        "steps": len(ends),
        "seconds_per_step": seconds,
        "seconds_before": _before(clock.told, some, rows, plan),
        "peak": _peak(plan["device"]),
        "runtime": runtime,
    }


def sample(rows: Sequence[Row], count: int, plan: Mapping[str, Any]) -> list[Row]:
    """Rows of all lengths alike, of `count` wordings in all, with the longest of all, for the peak."""
    ordered = sorted(rows, key=lambda row: -len(row.ids))
    longest = 1
    while sum(wordings(row.kind, plan) for row in ordered[:longest]) < min(plan["micro_batch_size"], len(rows)):
        longest += 1
    first, rest = ordered[:longest], ordered[longest:]
    left = count - sum(wordings(row.kind, plan) for row in first)
    mean = sum(wordings(row.kind, plan) for row in rest) / max(len(rest), 1)
    wanted = min(ceil(left / mean), len(rest)) if rest else 0
    return first + [rest[(2 * at + 1) * len(rest) // (2 * wanted)] for at in range(wanted)]


class _Clock:
    """A Progress that notes when each phase told how much of it was done."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.told: dict[str, dict[float, float]] = {}

    def __call__(self, what: str, done: float = 0, total: float = 0, **numbers: float) -> None:
        self.told.setdefault(what, {})[done] = time.monotonic()
        self._progress(what, done, total, **numbers)


def _before(
    told: Mapping[str, Mapping[float, float]], some: Sequence[Row], rows: Sequence[Row], plan: Mapping[str, Any]
) -> float:
    """What all rows take before the first step, from when the phases of some told what was done.

    Questions take alike, but for what the first one shows the base, which counts in each here, and rows what their
    tokens take. The texts of the retention set are as many in any training.
    """
    seconds = 0.0
    if times := told.get(PARAPHRASING):
        each = (times[max(times)] - times[0]) / max(times)
        seconds += each * sum(wordings(row.kind, plan) > 1 for row in rows)
    if times := told.get(FREEZING):
        trained = sum(wordings(row.kind, plan) for row in some)
        own = max(at for done, at in times.items() if done <= trained) - times[0]
        seconds += own * _tokens(rows, plan) / _tokens(some, plan) + max(times.values()) - times[0] - own
    return seconds


def _tokens(rows: Sequence[Row], plan: Mapping[str, Any]) -> int:
    return sum(len(row.ids) * wordings(row.kind, plan) for row in rows)


def _loaded(device: str) -> int:
    """Import what trains; returns the bytes that the process holds then."""
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import torch
    import transformers.trainer  # noqa: F401
    import trl.trainer.sft_trainer  # noqa: F401

    if device == "cuda":
        return int(torch.cuda.memory_allocated())
    try:
        resident = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError):
        return _peak(device)
    import resource

    return resident * resource.getpagesize()


def _peak(device: str) -> int:
    import torch

    if device == "cuda":
        return int(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:
        return 0
    # In KiB, on a Mac in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
