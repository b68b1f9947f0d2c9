"""The likelihoods of tokens and their gradients are those that PyTorch computes in its own way."""

from __future__ import annotations

import pytest

from dlmbuild.train.likelihood import log_likelihood


@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-6), ("bfloat16", 4e-3)])
def test_values_and_gradients(dtype: str, near: float) -> None:
    import torch

    generator = torch.Generator().manual_seed(7)
    logits = (3 * torch.randn(5, 40, generator=generator)).to(getattr(torch, dtype)).requires_grad_()
    tokens = torch.randint(0, 40, (5, 6), generator=generator)
    tokens[:, 1] = tokens[:, 0]  # one and the same may be asked twice
    weights = torch.randn(5, 6, generator=generator)

    found = log_likelihood(logits, tokens)
    (gradient,) = torch.autograd.grad((found * weights).sum(), logits)
    plain = logits.detach().double().requires_grad_()
    wanted = plain.log_softmax(-1).gather(1, tokens)
    (expected,) = torch.autograd.grad((wanted * weights).sum(), plain)
    assert found.dtype == torch.float32 and gradient.dtype == logits.dtype
    assert torch.allclose(found.double(), wanted, atol=1e-5)
    assert torch.allclose(gradient.double(), expected, rtol=near, atol=near)
