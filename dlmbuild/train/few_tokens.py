"""A model that is given about a dozen tokens at a time, as when it writes.

Its weights are read for little work then, and what surrounds a product takes longer than the product: waking a thread,
and on a CPU in half precision the rearranging of the right-hand matrix, which oneDNN does anew each time. With the
weights on the left it is the tokens that are rearranged: on SmolLM2-135M a step takes five sixths of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

_SMALL = 1024
"""Numbers that a token has in a small model."""


@contextmanager
def few_tokens(model: Any) -> Iterator[int]:
    """For the block, `model` computes what it is given as is best for few tokens; gradients are not wanted.

    Gives how many threads of Python may ask it at once.
    """
    import torch

    threads = torch.get_num_threads()
    at_once = 1
    if model.config.get_text_config().hidden_size <= _SMALL:
        torch.set_num_threads(1)  # two take longer than one for a product, and more of the processor
        at_once = threads if model.device.type == "cpu" else 1
    turned = []
    if model.device.type == "cpu" and model.dtype == torch.bfloat16:
        turned = [module for module in model.modules() if type(module) is torch.nn.Linear]
    for module in turned:
        module.forward = partial(_weights_first, module.weight, module.bias)
    try:
        yield at_once
    finally:
        for module in turned:
            del module.forward
        torch.set_num_threads(threads)


def _weights_first(weight: Any, bias: Any, x: Any) -> Any:
    """What a linear layer makes of x (…, in)."""
    found = (weight @ x.reshape(-1, x.shape[-1]).T).T
    return (found if bias is None else found + bias).view(*x.shape[:-1], -1)
