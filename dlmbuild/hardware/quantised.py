"""What is trained with bitsandbytes: a base in 4 bits (QLoRA), and optimizers whose state takes 8 bits.

Its wheels compute on NVIDIA GPUs and on CPUs. QLoRA: Dettmers et al. 2023, arXiv 2305.14314.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlmbuild.errors import HardwareError
from dlmbuild.lock.capture import pin

VALUES = (("adapter", "qlora"), ("optimizer", "adamw_bnb_8bit"), ("optimizer", "paged_adamw_8bit"))
"""Keys of `training` with the values that bitsandbytes does."""
_INSTEAD = {"adapter": "lora", "optimizer": "adamw_torch"}
_LIBRARY = "bitsandbytes"


def libraries(plan: Mapping[str, Any]) -> tuple[str, ...]:
    """The packages that a training by `plan` needs besides the usual ones."""
    return (_LIBRARY,) if any(plan[key] == value for key, value in VALUES) else ()


def require_quantised(training: Mapping[str, Any], device: str) -> None:
    """Refuse what `training` asks for and neither `device` nor what is installed can do. Raises HardwareError."""
    for key, value in VALUES:
        if training[key] == value and (wrong := refusal(key, value, device)):
            raise wrong


def refusal(key: str, value: str, device: str) -> HardwareError | None:
    """Why `training.<key>` cannot be `value` on a device (cuda, rocm, mps or cpu); None where it can."""
    what, instead = f"training.{key} is {value}", f"write {key}: {_INSTEAD[key]}"
    if device not in ("cuda", "cpu"):
        why = f"bitsandbytes does that on NVIDIA GPUs and on CPUs, not on {device}"
        return HardwareError(what, field=key, why=why, do=instead)
    if value.startswith("paged") and device == "cpu":
        why = "on a CPU nothing is paged: bitsandbytes would silently do without"
        return HardwareError(what, field=key, why=why, do="write optimizer: adamw_bnb_8bit")
    if not pin(_LIBRARY):
        do = f"pip install 'dlmbuild[qlora]'   (in a checkout: pip install -e '.[qlora]'), or {instead}"
        return HardwareError(what, field=key, why="the package bitsandbytes is not installed", do=do)
    return None
