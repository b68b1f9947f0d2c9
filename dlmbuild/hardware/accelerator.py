"""What PyTorch says about this machine's GPU: its name, generation and memory, and what can be computed on it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dlmbuild.io.progress import Progress

_BF16_ROCM = ("gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1101", "gfx1102", "gfx1200", "gfx1201")
"""AMD's chips with matrix units for bf16, by the name that ROCm gives them."""


def accelerator(out: Path, progress: Progress) -> dict[str, Any]:
    """`described` as a job: torch takes seconds to load, and a GPU's driver may crash."""
    import torch

    return described(torch)


def described(torch: Any) -> dict[str, Any]:
    """The facts by name; `kind` is cuda, rocm, mps or none. `memory` and `free` are in bytes, `sm` is as in "9.0"."""
    found = {"torch": str(torch.__version__), "kind": "none"}
    if torch.cuda.is_available():
        rocm = getattr(torch.version, "hip", None)
        one = torch.cuda.get_device_properties(0)
        free, memory = torch.cuda.mem_get_info(0)
        chip = str(getattr(one, "gcnArchName", "")).partition(":")[0]
        bf16 = chip in _BF16_ROCM if rocm else one.major >= 8
        return {
            **found,
            "kind": "rocm" if rocm else "cuda",
            "driver": str(rocm or torch.version.cuda),
            "name": str(one.name),
            "devices": int(torch.cuda.device_count()),
            "sm": chip if rocm else f"{one.major}.{one.minor}",
            "memory": int(memory),
            "free": int(free),
            "bf16": bf16,
            "fp16": True,
            "flash_attention": bf16 and not rocm and find_spec("flash_attn") is not None,
            "bitsandbytes": not rocm and find_spec("bitsandbytes") is not None,
        }
    if torch.backends.mps.is_available():
        return {**found, "kind": "mps", "bf16": False, "fp16": False, "flash_attention": False, "bitsandbytes": False}
    return found
