"""Attention as products of whole matrices is PyTorch's own, and so are its gradients."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dlmbuild.hardware.plan import WHOLE
from dlmbuild.train import attention
from dlmbuild.train.model import PLAIN, load_base
from dlmbuild.train.packing import Packing
from tests.families import make_model


@pytest.mark.parametrize(("tokens", "seen", "batch"), [(9, 9, 1), (9, 9, 2), (3, 9, 1)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_and_gradients(dtype: str, tokens: int, seen: int, batch: int) -> None:
    import torch

    generator = torch.Generator().manual_seed(5)

    def some(heads: int, count: int) -> Any:
        made = torch.randn(batch, count, heads, 8, generator=generator).to(getattr(torch, dtype))
        return made.transpose(1, 2).requires_grad_()

    query, key, value = some(6, tokens), some(2, seen), some(2, seen)
    mask = torch.rand(batch, 1, tokens, seen, generator=generator) < 0.5
    mask[..., 0] = True
    asked = torch.randn(batch, tokens, 6, 8, generator=generator)
    attend = attention._attention
    found, _ = attend(SimpleNamespace(num_key_value_groups=3), query, key, value, mask, scaling=0.3)
    gradients = torch.autograd.grad((found * asked).sum(), (query, key, value))
    plain = [each.detach().double().requires_grad_() for each in (query, key, value)]
    wanted = torch.nn.functional.scaled_dot_product_attention(*plain, attn_mask=mask, scale=0.3, enable_gqa=True)
    wanted = wanted.transpose(1, 2)
    expected = torch.autograd.grad((wanted * asked).sum(), plain)
    near = 1e-5 if dtype == "float32" else 0.03
    assert found.dtype == query.dtype and found.is_contiguous()
    assert torch.allclose(found.double(), wanted, atol=near)
    for one, other in zip(gradients, expected, strict=True):
        assert torch.allclose(one.double(), other, atol=3 * near)


def test_a_token_that_sees_nothing_does_no_harm() -> None:
    import torch

    query = torch.randn(1, 2, 3, 8, requires_grad=True)
    mask = torch.tensor([[True, False, False], [False, False, False], [True, False, True]])[None, None]
    found, _ = attention._attention(SimpleNamespace(num_key_value_groups=1), query, query, query, mask)
    found[:, [0, 2]].sum().backward()
    assert torch.isfinite(found).all() and query.grad is not None and torch.isfinite(query.grad).all()
    assert not query.grad[:, :, 1].any()


@pytest.mark.model
def test_a_base_in_bf16_is_loaded_with_it_and_packs(tmp_path: Path) -> None:
    make_model(tmp_path / "base", "llama")
    plan = {**PLAIN, "precision": "bf16", "attention": "whole"}
    model = load_base(tmp_path / "base", plan, 0)
    assert model.config._attn_implementation == attention.NAME and Packing(model).shares


@pytest.mark.model
def test_many_tokens_and_those_without_a_mask_are_left_to_pytorch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    make_model(tmp_path / "base", "llama", max_position_embeddings=2 * WHOLE)
    model = load_base(tmp_path / "base", {**PLAIN, "precision": "bf16", "attention": "whole"}, 0)
    computed: list[int] = []
    whole = attention._function()

    def apply(*given: Any) -> Any:
        computed.append(given[1].shape[2])
        return whole.apply(*given)

    monkeypatch.setattr(attention, "_function", lambda: SimpleNamespace(apply=apply))
    for tokens, masked in ((WHOLE, True), (WHOLE + 1, True), (WHOLE, False)):
        ids = torch.ones(1, tokens, dtype=torch.long)
        mask = torch.ones(1, 1, tokens, tokens, dtype=torch.bool).tril() if masked else None
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        assert torch.isfinite(logits).all()
    assert computed == [WHOLE] * model.config.num_hidden_layers
