"""How likely a model takes tokens to be, and what that asks of its logits."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

from dlmbuild.hardware.memory import scored_at_once


def log_likelihood(logits: Any, tokens: Any) -> Any:
    """The logarithms of the probabilities, in fp32, that `logits` (places, vocabulary) give `tokens` (places, any).

    The numbers of a whole vocabulary are most of what a training of a small model keeps, and much of its time: here
    the logits alone are kept, and their gradient is made in their own precision, some places at a time.
    """
    return _function().apply(logits, tokens)


@cache
def _function() -> Any:
    import torch

    class LogLikelihood(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, logits: Any, tokens: Any) -> Any:
            found = torch.empty(tokens.shape, dtype=torch.float32, device=logits.device)
            totals = found.new_empty(len(logits), 1)
            for every, its, said, total in _in_fp32(logits, tokens, found, totals):
                torch.gather(every, 1, its, out=said)
                most = every.amax(1, keepdim=True)
                torch.sum(every.sub_(most).exp_(), 1, keepdim=True, out=total)
                total.log_().add_(most)
            ctx.save_for_backward(logits, tokens, totals)
            return found.sub_(totals)

        @staticmethod
        def backward(ctx: Any, *asked: Any) -> tuple[Any, None]:
            logits, tokens, totals = ctx.saved_tensors
            gradient = torch.empty_like(logits)
            for every, its, total, wanted, made in _in_fp32(logits, tokens, totals, *asked, gradient):
                # d log p(t) / d logit(v) = [t = v] - p(v)
                every.sub_(total).exp_().mul_(-wanted.sum(1, keepdim=True))
                made.copy_(every.scatter_add_(1, its, wanted))
            return gradient, None

    return LogLikelihood


def _in_fp32(logits: Any, *others: Any) -> Iterator[tuple[Any, ...]]:
    """Some places after the other: logits to be worked on, the same memory each time, and the same of all others."""
    import torch

    count = scored_at_once(logits.device.type)
    work = torch.empty(min(count, len(logits)), logits.shape[1], dtype=torch.float32, device=logits.device)
    for some, *rest in zip(*(each.split(count) for each in (logits, *others)), strict=True):
        yield work[: len(some)].copy_(some), *rest
