"""The versions of what does the work, read from the installed packages without importing them."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

TRAINING_PINS = ("torch", "transformers", "peft", "trl", "accelerate", "tokenizers")
EXPORT_PINS = ("gguf", "libggml-python", "xllamacpp")


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
