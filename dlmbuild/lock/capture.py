"""What a build runs under: package versions, read without importing the packages, and determinism flags."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

TRAINING_PINS = ("torch", "transformers", "peft", "trl", "accelerate", "tokenizers")
EXPORT_PINS = ("gguf", "libggml-python", "xllamacpp")


_FLAGS = {"use_deterministic_algorithms": True, "cublas_workspace_config": ":4096:8"}


def determinism(device: str) -> dict[str, object]:
    """How far two trainings agree on `device`, and the flags that it takes.

    `strong`: to the byte, on hardware of the same tier. `best-effort`: nearly (some kernels of MPS cannot do better).
    """
    return {"class": "best-effort" if device == "mps" else "strong", "flags": dict(_FLAGS)}


@cache
def pin(package: str) -> str:
    """The installed version, or "" where the package is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def pins(packages: tuple[str, ...]) -> dict[str, str]:
    """Package → version, without those that are not installed."""
    return {package: pin(package) for package in packages if pin(package)}
