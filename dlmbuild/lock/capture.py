"""What a build runs under: package versions, read without importing the packages, and determinism flags."""

from __future__ import annotations

import os
import sys
from functools import cache

TRAINING_PINS = ("torch", "transformers", "peft", "trl", "accelerate", "tokenizers")
EXPORT_PINS = ("gguf", "libggml-python", "xllamacpp")


_FLAGS = {"use_deterministic_algorithms": True, "cublas_workspace_config": ":4096:8"}


def determinism(device: str, processes: int = 1) -> dict[str, object]:
    """How far two trainings agree on `device`, the flags that it takes, and by how many processes.

    `strong`: to the byte, on hardware of the same tier. `best-effort`: nearly (some kernels of MPS cannot do better).
    """
    return {"class": "best-effort" if device == "mps" else "strong", "flags": dict(_FLAGS), "world_size": processes}


@cache
def _installed() -> dict[str, str]:
    """Package → version of everything installed, read from the names of the .dist-info folders.

    That the names hold name and version is specified (packaging.python.org, "Recording installed projects"). It costs
    one look into each folder of sys.path; importlib.metadata parses a file per package, which a build that has nothing
    to do would feel.
    """
    found: dict[str, str] = {}
    for folder in sys.path:
        try:
            names = os.listdir(folder or ".")  # noqa: PTH208 - names are all that is needed
        except OSError:
            continue
        for name in names:
            if name.endswith(".dist-info"):
                package, _, version = name.removesuffix(".dist-info").rpartition("-")
                found.setdefault(package.lower().replace("_", "-"), version)
    return found


def pin(package: str) -> str:
    """The installed version, or "" where the package is not installed."""
    return _installed().get(package, "")


def pins(packages: tuple[str, ...]) -> dict[str, str]:
    """Package → version, without those that are not installed."""
    return {package: pin(package) for package in packages if pin(package)}
