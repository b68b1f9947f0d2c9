"""Attention over few tokens in half precision on a CPU, as products of whole matrices.

PyTorch's kernel goes over a CPU's matrices in small blocks and spends most of its time on converting them: whole
products take a quarter of its time for a hundred tokens and two thirds for some hundred. What is computed and how it is
differentiated: Dao et al. 2022 (FlashAttention, arXiv 2205.14135), appendix B.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from dlmbuild.hardware.plan import WHOLE

NAME = "dlmbuild_whole"
"""By which transformers knows it."""


def register() -> str:
    """Make it known to transformers; returns its name there, which a model is loaded with."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, _attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    return NAME


def _attention(
    module: Any, query: Any, key: Any, value: Any, mask: Any, scaling: float | None = None, **more: Any
) -> tuple[Any, None]:
    """As transformers' own: (rows, heads, tokens, size) of each, and (rows, tokens, heads, size) back."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if mask is None or key.shape[2] > WHOLE or more.get("dropout"):
        made: tuple[Any, None] = sdpa_attention_forward(module, query, key, value, mask, scaling=scaling, **more)
        return made
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return _function().apply(query, key, value, mask, scale).transpose(1, 2).contiguous(), None


@cache
def _function() -> Any:
    import torch

    class Attention(torch.autograd.Function):  # type: ignore[misc]
        """Heads that share keys and values are one matrix, below each other."""

        @staticmethod
        def forward(ctx: Any, query: Any, key: Any, value: Any, mask: Any, scale: float) -> Any:
            query, key, value = query.reshape(*key.shape[:2], -1, key.shape[-1]), key.contiguous(), value.contiguous()
            scores = (query @ key.transpose(2, 3)).float().mul_(scale)
            # Not minus infinity: what fills up a row may see nothing at all.
            least = torch.finfo(scores.dtype).min
            scores.unflatten(2, (-1, mask.shape[2])).masked_fill_(~mask[:, :, None], least)
            weights = scores.softmax(-1).to(query.dtype)
            seen = weights @ value
            ctx.save_for_backward(query, key, value, weights, seen)
            ctx.scale = scale
            return seen.unflatten(2, (-1, mask.shape[2])).flatten(1, 2)

        @staticmethod
        def backward(ctx: Any, *asked: Any) -> tuple[Any, ...]:
            query, key, value, weights, seen = ctx.saved_tensors
            shape = asked[0].shape
            gradient = asked[0].reshape(seen.shape)
            # d softmax: weights · (what its weight is asked to change - what all of them are, in the mean)
            mean = (gradient.float() * seen).sum(-1, keepdim=True)
            scores = (gradient @ value.transpose(2, 3)).float().sub_(mean).mul_(weights).mul_(ctx.scale)
            scores = scores.to(query.dtype)
            keys, values = scores.transpose(2, 3) @ query, weights.transpose(2, 3) @ gradient
            return (scores @ key).view(shape), keys, values, None, None

    return Attention
