"""Outputs of a model that are no numbers, in words."""

from __future__ import annotations

from dlmbuild.errors import SmokeError


def no_numbers(model: str, *, trained: bool = True) -> SmokeError:
    """The error for `model`, for example "the trained model", whose outputs are infinite or not a number."""
    what = f"the outputs of {model} are infinite or not a number"
    if not trained:
        return SmokeError(what, why="its weights are too large to compute with", do="take another base")
    return SmokeError(
        what,
        why="training has driven its weights too far",
        do="set training.learning_rate lower (half of it) or training.num_epochs, and run doit again",
    )
