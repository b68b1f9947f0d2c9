"""What is computed with the weights on the left is the same, and only within the block."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlmbuild.train.few_tokens import few_tokens
from dlmbuild.train.model import PLAIN, load_base
from tests.families import make_model

pytestmark = pytest.mark.model


@pytest.mark.parametrize("family", ["llama", "qwen2"])  # without biases, and with
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_model_says_the_same(precision: str, family: str, tmp_path: Path) -> None:
    import torch

    make_model(tmp_path / "base", family)
    model = load_base(tmp_path / "base", {**PLAIN, "precision": precision}, 0).eval()
    ids = torch.arange(14).reshape(2, 7)
    threads = torch.get_num_threads()
    with torch.no_grad():
        before = model(input_ids=ids).logits
        with few_tokens(model):
            assert torch.get_num_threads() == 1
            turned = [module for module in model.modules() if "forward" in vars(module)]
            inside = model(input_ids=ids).logits
        after = model(input_ids=ids).logits
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    assert turned == (linear if precision == "bf16" else [])
    assert torch.equal(before, after) and torch.get_num_threads() == threads
    assert (inside - before).abs().max() <= (0.02 if precision == "bf16" else 0) * before.abs().max()


def test_after_a_failure_everything_is_as_before(tmp_path: Path) -> None:
    make_model(tmp_path / "base", "llama")
    model = load_base(tmp_path / "base", {**PLAIN, "precision": "bf16"}, 0)
    with pytest.raises(ZeroDivisionError), few_tokens(model):
        raise ZeroDivisionError
    assert not any("forward" in vars(module) for module in model.modules())
