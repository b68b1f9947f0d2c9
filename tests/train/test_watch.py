from __future__ import annotations

from typing import Any

import pytest

from dlmbuild.train.watch import not_finite


def plan(precision: str, **more: Any) -> dict[str, Any]:
    return {"precision": precision, "learning_rate": 2e-4, **more}


@pytest.mark.parametrize(
    ("step", "made", "do"),
    [
        (1, plan("fp32"), "take another base_model"),
        (1, plan("bf16"), "set training.precision to fp32"),
        (2, plan("fp32"), "set training.learning_rate lower than 0.0002 (half of it)"),
        (
            9,
            plan("bf16"),
            "set training.learning_rate lower than 0.0002 (half of it), or set training.precision to fp32",
        ),
        (
            9,
            plan("fp32", method="dpo"),
            "set training.preference.hyperparams.learning_rate lower than 0.0002 (half of it)",
        ),
    ],
)
def test_the_advice_fits_what_was_done(step: int, made: dict[str, Any], do: str) -> None:
    error = not_finite("loss", float("nan"), step, made)
    assert error.what == f"the loss is nan at step {step}" and error.do == do
    assert ("no weight has been changed yet" in error.why) == (step == 1)
    assert error.why.endswith("; nothing was saved")
