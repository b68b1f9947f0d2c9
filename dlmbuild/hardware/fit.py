"""Whether a training fits into the memory of this machine, what to write where it does not, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from dlmbuild.hardware.detect import Machine
from dlmbuild.hardware.memory import Estimate
from dlmbuild.hardware.plan import attention

ROOMY, FULL = 0.8, 0.95
"""Shares of the free memory: up to the first a training fits, above the second it does not; between it is tight."""

_SHORTEST = 64
"""The smallest value of training.sequence_len."""

Forecast = Callable[[Mapping[str, Any]], Estimate]
"""The estimate for a plan."""


class Change(NamedTuple):
    """What to write under `training:` instead, and what the training would take then."""

    values: Mapping[str, Any]
    total: int

    def __str__(self) -> str:
        return ", ".join(f"{name}: {value}" for name, value in self.values.items())


def verdict(total: int, free: int) -> str:
    """fits, tight, or "does not fit"."""
    if total > FULL * free:
        return "does not fit"
    return "tight" if total > ROOMY * free else "fits"


def smaller(plan: Mapping[str, Any], forecast: Forecast, free: int, longest: int) -> Change | None:
    """The mildest change of a plan with which it fits, each tried by its own estimate; None if none helps.

    First fewer rows at once, with as many more steps of accumulation: that trains alike, only slower. Then, on CPUs,
    half precision. Then shorter rows, of which the longest has `longest` tokens now.
    """
    for values in _milder(plan, longest):
        changed = {**plan, **values}
        changed["attention"] = attention(changed["device"], changed["precision"])
        total = forecast(changed).total
        if total <= ROOMY * free:
            return Change(values, total)
    return None


def _milder(plan: Mapping[str, Any], longest: int) -> Iterator[dict[str, Any]]:
    values: dict[str, Any] = {}
    batch = plan["micro_batch_size"]
    rows = batch * plan["grad_accum"] * plan["world_size"]
    while batch > 1:
        batch = next(size for size in range(batch // 2, 0, -1) if rows % size == 0)
        values |= {"micro_batch_size": batch, "grad_accum": rows // batch}
        yield dict(values)
    if plan["device"] == "cpu" and plan["precision"] == "fp32":
        values["precision"] = "bf16"
        yield dict(values)
    length = min(longest, plan["sequence_len"])
    while length > _SHORTEST:
        length = max(_SHORTEST, length // 2)
        yield {**values, "sequence_len": length}


def refusals(machine: Machine, accelerator: Mapping[str, Any] | None) -> dict[str, str]:
    """What a document may ask for and is refused here → why. `accelerator` is what PyTorch says, if it was asked."""
    from dlmbuild.doc.schema import REFUSED_VALUES
    from dlmbuild.hardware.quantised import VALUES, refusal

    found = {}
    for key, values in sorted(REFUSED_VALUES.items()):
        for value, (why, _) in sorted(values.items()):
            found[f"{key}: {value}"] = why
    if machine.device != "cuda":
        found["training.precision: fp16"] = f"slow, or not a number, on {machine.device}; leave it out"
    elif accelerator and accelerator.get("bf16") is False:
        found["training.precision: bf16"] = f"{accelerator.get('name', 'this GPU')} has no units for it; write fp16"
    rocm = bool(accelerator and accelerator.get("kind") == "rocm")
    for key, value in VALUES:
        if wrong := refusal(key, value, "rocm" if rocm else machine.device):
            found[f"training.{key}: {value}"] = f"{wrong.why}; {wrong.do}"
    return found
