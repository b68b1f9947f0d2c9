"""A linear layer and the LoRA beside it, computed as one.

PEFT computes an adapter in fp32, whatever the base is in: what goes into a layer is cast to that, and kept so for the
backward pass, and what comes out is cast back. On a small base these copies take longer than the adapter's products.
Here its two narrow matrices are cast instead, as autocast would do it; the weights that are trained, their gradients
and what an optimizer makes of them are in fp32 as ever. What is computed is that of PEFT's `lora.Linear`
(tuners/lora/layer.py): Hu et al. 2021, arXiv 2106.09685, equation 3.
"""

from __future__ import annotations

from functools import cache
from typing import Any


def computed_as_one(config: Any) -> Any:
    """PEFT's configuration of a plain LoRA, which makes linear layers of this kind from now on."""
    import torch

    config._register_custom_module({torch.nn.Linear: _layer()})
    return config


@cache
def _layer() -> Any:
    from peft.tuners.lora.layer import Linear
    from torch.nn import Identity

    class AsOne(Linear):  # type: ignore[misc]
        """PEFT's own, which still computes a base without an adapter, and one with several."""

        def forward(self, x: Any, *args: Any, **more: Any) -> Any:
            base, active = self.get_base_layer(), [name for name in self.active_adapters if name in self.lora_A]
            plain = len(active) == 1 and not (self.disable_adapters or self.merged or args or more)
            if not plain or x.dtype != base.weight.dtype:
                return super().forward(x, *args, **more)
            (name,) = active
            dropout = self.lora_dropout[name]
            seen = x if isinstance(dropout, Identity) else dropout(x)
            lower, upper = self.lora_A[name].weight, self.lora_B[name].weight
            return _product().apply(x, seen, base.weight, base.bias, lower, upper, self.scaling[name])

    return AsOne


@cache
def _product() -> Any:
    import torch
    from torch.nn.functional import linear

    class Product(torch.autograd.Function):  # type: ignore[misc]
        """x Wᵀ + bias + scale · s Aᵀ Bᵀ for x of (…, in), of which the adapter sees s, and the rank between A and B."""

        @staticmethod
        def forward(ctx: Any, x: Any, seen: Any, weight: Any, bias: Any, lower: Any, upper: Any, scale: float) -> Any:
            rows = seen.reshape(-1, seen.shape[-1])
            lower, upper = lower.to(x.dtype), (upper * scale).to(x.dtype)
            between = rows @ lower.T
            ctx.save_for_backward(rows, weight, lower, upper, between)
            ctx.scale, ctx.drops = scale, seen is not x
            return linear(x.reshape(-1, x.shape[-1]), weight, bias).addmm_(between, upper.T).view(*x.shape[:-1], -1)

        @staticmethod
        def backward(ctx: Any, *asked: Any) -> tuple[Any, ...]:
            rows, weight, lower, upper, between = ctx.saved_tensors
            gradient = asked[0].reshape(-1, asked[0].shape[-1])
            inner = gradient @ upper
            of_x = of_seen = None
            if ctx.needs_input_grad[0]:
                of_x = gradient @ weight
                if ctx.drops:
                    of_seen = (inner @ lower).view(*asked[0].shape[:-1], -1)
                else:
                    of_x.addmm_(inner, lower)
                of_x = of_x.view(*asked[0].shape[:-1], -1)
            of_lower, of_upper = (inner.T @ rows).float(), (gradient.T @ between).float().mul_(ctx.scale)
            return of_x, of_seen, None, None, of_lower, of_upper, None

    return Product
