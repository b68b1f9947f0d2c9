"""How likely a model takes tokens to be, and what that asks of its logits."""

from __future__ import annotations

from functools import cache
from typing import Any


def log_likelihood(logits: Any, tokens: Any) -> Any:
    """The logarithms of the probabilities, in fp32, that `logits` (places, vocabulary) give `tokens` (places, any).

    The numbers of a whole vocabulary are most of what a training of a small model keeps, and much of its time: here
    they are there once on the way forward, and a second time, as the gradient, on the way back.
    """
    return _function().apply(logits, tokens)


@cache
def _function() -> Any:
    import torch

    class LogLikelihood(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, logits: Any, tokens: Any) -> Any:
            every = logits.log_softmax(-1, dtype=torch.float32)
            ctx.save_for_backward(every, tokens)
            ctx.dtype = logits.dtype
            return every.gather(1, tokens)

        @staticmethod
        def backward(ctx: Any, *asked: Any) -> tuple[Any, None]:
            every, tokens = ctx.saved_tensors
            (gradient,) = asked
            # d log p(t) / d logit(v) = [t = v] - p(v)
            whole = every.exp().mul_(-gradient.sum(1, keepdim=True)).scatter_add_(1, tokens, gradient)
            return whole.to(ctx.dtype), None

    return LogLikelihood
