"""A layer and its LoRA computed as one are PEFT's own, and so are their gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dlmbuild.train.lora import computed_as_one
from dlmbuild.train.model import PLAIN, load_base, lora_config, with_adapter
from tests.families import make_model

PLAN = {
    **PLAIN,
    "layers": "all",
    "lora_r": 4,
    "lora_alpha": 12,
    "lora_dropout": 0.0,
    "rslora": False,
    "target_modules": ["q_proj", "down_proj"],
}


def adapted(dtype: str, *, as_one: bool, bias: bool = True, **more: Any) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    base: Any = torch.nn.Sequential(torch.nn.Linear(24, 40, bias), torch.nn.GELU(), torch.nn.Linear(40, 8, bias))
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["0", "2"], init_lora_weights=False, **more)
    return get_peft_model(base.to(getattr(torch, dtype)), computed_as_one(config) if as_one else config)


def said(model: Any, dtype: str) -> list[Any]:
    """What comes out, and the gradients of what goes in and of all that is trained, in fp32."""
    import torch

    generator = torch.Generator().manual_seed(5)
    given = torch.randn(2, 7, 24, generator=generator).to(getattr(torch, dtype)).requires_grad_()
    torch.manual_seed(8)
    found = model(given)
    asked = torch.randn(found.shape, generator=generator)
    trained = [each for each in model.parameters() if each.requires_grad]
    gradients = torch.autograd.grad((found.float() * asked).sum(), (given, *trained))
    assert found.dtype == given.dtype and all(each.dtype == torch.float32 for each in gradients[1:])
    return [each.detach().float() for each in (found, *gradients)]


@pytest.mark.parametrize("more", [{}, {"bias": False}, {"use_rslora": True}, {"lora_dropout": 0.5}], ids=str)
def test_values_and_gradients(more: dict[str, Any]) -> None:
    import torch

    expected = said(adapted("float32", as_one=False, **more), "float32")
    for one, other in zip(said(adapted("float32", as_one=True, **more), "float32"), expected, strict=True):
        assert torch.allclose(one, other, atol=1e-5, rtol=1e-5)


def test_in_half_precision_it_is_as_near_as_with_casts() -> None:
    import torch

    exact, with_casts, as_one = (
        said(adapted(dtype, as_one=as_one), dtype)
        for dtype, as_one in (("float32", False), ("bfloat16", False), ("bfloat16", True))
    )
    for one, other, wanted in zip(as_one, with_casts, exact, strict=True):
        far, farther = ((each - wanted).norm() / wanted.norm() for each in (one, other))
        assert far < 0.02 and far < 1.5 * farther
    assert not any(torch.equal(one, other) for one, other in zip(as_one[2:], with_casts[2:], strict=True))


@pytest.mark.parametrize("how", ["switched off", "merged"])
def test_the_rest_is_left_to_peft(how: str) -> None:
    import torch

    found = []
    for as_one in (False, True):
        model = adapted("float32", as_one=as_one)
        given = torch.randn(3, 24, generator=torch.Generator().manual_seed(2))
        if how == "switched off":
            with model.disable_adapter():
                found.append(model(given))
        else:
            model.merge_adapter()
            found.append(model(given))
    assert torch.equal(*found)


@pytest.mark.model
@pytest.mark.parametrize(("adapter", "kind"), [("lora", "AsOne"), ("dora", "Linear"), ("qlora", "Linear")])
def test_what_a_plan_asks_for_in_both_phases(adapter: str, kind: str, tmp_path: Path) -> None:
    from peft import get_peft_model

    plan = {**PLAN, "adapter": adapter}
    make_model(tmp_path / "base", "llama")
    base = load_base(tmp_path / "base", PLAIN, 0)
    first = get_peft_model(base, lora_config(plan, 2))
    first.save_pretrained(tmp_path / "adapter")
    second = with_adapter(load_base(tmp_path / "base", PLAIN, 0), tmp_path / "base", tmp_path / "adapter", plan)
    for model in (first, second):
        layers = [layer for name, layer in model.named_modules() if name.endswith(("q_proj", "down_proj"))]
        assert {type(layer).__name__ for layer in layers} == {kind}
        assert all(each.requires_grad == ("lora_" in name) for name, each in model.named_parameters())
