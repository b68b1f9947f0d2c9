"""A checkpoint of a few numbers, with everything that its headers and JSON have to say."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dlmbuild.io.safetensors_file import write_safetensors

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 1,
    "hidden_size": 4,
    "vocab_size": 8,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
TENSORS = {"model.embed_tokens.weight": (8, 4), "model.norm.weight": (4,)}


def _write_tensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    write_safetensors(path, shapes, lambda name: [bytes(4 * math.prod(shapes[name]))])


@pytest.fixture
def write_tensors() -> Callable[[Path, dict[str, tuple[int, ...]]], None]:
    """`write_tensors(path, shapes)` writes a safetensors file of zeros."""
    return _write_tensors


@pytest.fixture
def make_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """`make_checkpoint(folder, key=value…)` writes one whose config.json has these keys changed, or without if None."""

    def make(folder: Path | str = "base", **changes: Any) -> Path:
        folder = tmp_path / folder
        folder.mkdir(parents=True)
        config = {name: value for name, value in {**CONFIG, **changes}.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": {}, "merges": []}}))
        (folder / "tokenizer_config.json").write_text("{}")
        _write_tensors(folder / "model.safetensors", TENSORS)
        return folder

    return make
