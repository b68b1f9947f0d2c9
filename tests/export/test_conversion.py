"""What is done around llama.cpp's own converter; that it works is seen in test_families."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from dlmbuild.errors import ExportError
from dlmbuild.export import conversion
from dlmbuild.export.adapter_gguf import read_factors
from dlmbuild.io.gguf_file import Planned, entry, read_header, write_gguf
from tests.tiny import make_tiny_adapter, make_tiny_base


def test_every_scale_is_brought_to_one_alpha(tmp_path: Path) -> None:
    make_tiny_base(tmp_path / "base")
    adapter = tmp_path / "adapter"
    make_tiny_adapter(adapter, tmp_path / "base", use_rslora=True, ranks={"q_proj": 16}, alpha_pattern={"up_proj": 3})
    factors = read_factors(adapter, conversion.adaptable(tmp_path / "base"))
    (tmp_path / "plain").mkdir()
    conversion.write_plain(tmp_path / "plain", factors, 8.0)
    held = load_file(tmp_path / "plain" / "adapter_model.safetensors")
    assert len(held) == 28
    assert json.loads((tmp_path / "plain" / "adapter_config.json").read_text())["lora_alpha"] == 8.0
    for name, pair in factors.items():
        key = f"base_model.model.{name.removesuffix('.weight')}"
        a, b = held[f"{key}.lora_A.weight"], held[f"{key}.lora_B.weight"]
        np.testing.assert_allclose(8.0 / a.shape[0] * (b @ a), pair.scale * (pair.b @ pair.a), rtol=1e-4, atol=1e-6)


def test_an_adapter_on_what_lies_outside_the_blocks_is_refused(tmp_path: Path) -> None:
    make_tiny_base(tmp_path / "base")
    adaptable = conversion.adaptable(tmp_path / "base")
    assert adaptable["model.layers.1.mlp.up_proj"].linear and not adaptable["model.embed_tokens"].linear
    make_tiny_adapter(tmp_path / "adapter", tmp_path / "base")
    with pytest.raises(ExportError, match="belongs to another base"):
        read_factors(tmp_path / "adapter", {})


def test_what_the_script_takes_from_folders_is_left_out(tmp_path: Path) -> None:
    for number, name in enumerate(("here", "there")):
        entries = [
            entry("general.architecture", "olmo2"),
            entry("general.name", name),
            entry("general.basename", name),
            entry("olmo2.block_count", 1),
        ]
        plan = [Planned("output_norm.weight", "F32", (2,)), Planned("blk.0.attn_q.weight", "F16", (2, 2))]
        ordered = plan if number else plan[::-1]
        write_gguf(tmp_path / name, entries, ordered, lambda planned: [bytes(range(planned.nbytes))])
        conversion._rewrite(tmp_path / name, tmp_path / f"{name}.gguf", [entry("general.name", "base")])
    assert (tmp_path / "here.gguf").read_bytes() == (tmp_path / "there.gguf").read_bytes()
    header = read_header(tmp_path / "here.gguf")
    assert list(header.tensors) == ["output_norm.weight", "blk.0.attn_q.weight"]
    assert header.metadata == {
        "general.architecture": "olmo2",
        "general.name": "base",
        "olmo2.block_count": 1,
        "general.quantization_version": 2,
        "general.file_type": 1,
    }
