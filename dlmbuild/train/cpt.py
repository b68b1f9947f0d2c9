"""Continued pretraining: how prose is trained differently from questions and answers, in one training with them.

Where prose is most of what is trained, the learning rate rises slowly and never falls to zero, as when a model is
pretrained (Gururangan et al. 2020, arXiv 2004.10964: don't stop pretraining). And a token of prose may count more or
less than one of an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dlmbuild.data.rows import Row


def scheduled(plan: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """The plan for these rows: with the schedule of continued pretraining, if it asks for that where prose is so much.

    Its learning rate then ends at a tenth (train/settings.py).
    """
    cpt = plan["cpt"]
    share = sum(row.kind == "prose" for row in rows) / max(1, len(rows))
    if share < cpt.get("dapt_from", 2):
        return dict(plan)
    return {**plan, **{field: cpt[field] for field in ("lr_scheduler", "warmup_ratio")}}


def row_weights(rows: Sequence[Row], weight: float) -> list[float]:
    """How much a learned token of each row counts, prose `weight` times as much as the others, one in the mean.

    The learning rate never depends on the weight, only on the proportion.
    """
    tokens = {True: 0, False: 0}
    for row in rows:
        tokens[row.kind == "prose"] += len(row.ids) - row.given
    if not all(tokens.values()):
        return [1.0] * len(rows)  # nothing to weigh it against
    mean = (weight * tokens[True] + tokens[False]) / sum(tokens.values())
    return [(weight if row.kind == "prose" else 1.0) / mean for row in rows]
