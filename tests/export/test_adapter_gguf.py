from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from dlmbuild.errors import ExportError
from dlmbuild.export.adapter_gguf import lora_factors
from dlmbuild.export.base_gguf import read_model
from dlmbuild.export.conversion import convert_adapter
from dlmbuild.export.merge import merge_quantized
from dlmbuild.io.gguf_file import read_header
from tests.tiny import make_tiny_adapter, make_tiny_base, write_json


@pytest.fixture
def base(tmp_path: Path) -> Path:
    make_tiny_base(tmp_path / "base")
    return tmp_path / "base"


def change(adapter: Path, **values: Any) -> None:
    write_json(adapter / "adapter_config.json", json.loads((adapter / "adapter_config.json").read_text()) | values)


def change_tensors(adapter: Path, **tensors: NDArray[np.float32] | None) -> None:
    held = load_file(adapter / "adapter_model.safetensors")
    for name, value in tensors.items():
        held.pop(name, None)
        if value is not None:
            held[name] = value
    save_file(held, adapter / "adapter_model.safetensors")


def test_an_adapter_of_another_base_is_refused(base: Path, tmp_path: Path) -> None:
    adapter, files = tmp_path / "adapter", {"config.json": "a" * 64, "model.safetensors": "b" * 64}
    make_tiny_adapter(adapter, base)
    run = adapter / "training_run.json"
    trained_on = {"name": "tiny", "revision": "r1", "files": files}
    run.write_text(json.dumps({"base": trained_on}))
    out = tmp_path / "a.gguf"
    convert_adapter(adapter, base, out, base=files)
    out.unlink()
    for other in ({**files, "model.safetensors": "c" * 64}, {"config.json": "a" * 64}):
        with pytest.raises(ExportError, match=r"another base: tiny, revision r1: its model\.safetensors is not"):
            convert_adapter(adapter, base, out, base=other)
        with pytest.raises(ExportError, match="trained on another base"):
            merge_quantized(base, adapter, tmp_path / "none", "F16", out, name="x", threads=1, base=other)
    run.write_text("{}")
    with pytest.raises(ExportError, match="does not say on which base"):
        convert_adapter(adapter, base, out, base=files)
    assert not out.exists()


def test_what_llama_cpp_reads(base: Path, tmp_path: Path) -> None:
    make_tiny_adapter(tmp_path / "adapter", base)
    done = convert_adapter(tmp_path / "adapter", base, tmp_path / "a.gguf")
    assert done == {"tensors": 28}
    header = read_header(tmp_path / "a.gguf")
    assert header.metadata == {
        "general.architecture": "llama",
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": 8.0,
        "general.quantization_version": 2,
    }
    assert str(tmp_path).encode() not in (tmp_path / "a.gguf").read_bytes()
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    found = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    prefix = "base_model.model.model.layers.1"
    np.testing.assert_array_equal(
        found["blk.1.attn_q.weight.lora_a"], weights[f"{prefix}.self_attn.q_proj.lora_A.weight"]
    )
    down = weights[f"{prefix}.mlp.down_proj.lora_B.weight"]
    np.testing.assert_array_equal(found["blk.1.ffn_down.weight.lora_b"], down)
    query = weights[f"{prefix}.self_attn.q_proj.lora_B.weight"]
    np.testing.assert_array_equal(found["blk.1.attn_q.weight.lora_b"][:4], query[[0, 8, 1, 9]])
    key = weights[f"{prefix}.self_attn.k_proj.lora_B.weight"]
    np.testing.assert_array_equal(found["blk.1.attn_k.weight.lora_b"][16:20], key[[16, 24, 17, 25]])


@pytest.mark.parametrize(
    ("settings", "scales"),
    [
        ({}, {"q_proj": 2.0, "down_proj": 2.0}),
        ({"use_rslora": True}, {"q_proj": 4.0, "down_proj": 4.0}),
        ({"ranks": {"down_proj": 16}}, {"q_proj": 2.0, "down_proj": 0.5}),
        ({"ranks": {"down_proj": 16}, "use_rslora": True}, {"q_proj": 4.0, "down_proj": 2.0}),
        ({"alpha_pattern": {"q_proj": 1}}, {"q_proj": 0.25, "down_proj": 2.0}),
        ({"alpha_pattern": {r"[ml]+p\.down_proj": 32, "down_proj": 1}}, {"q_proj": 2.0, "down_proj": 8.0}),
        ({"alpha": 0.3}, {"q_proj": 0.075, "down_proj": 0.075}),
    ],
)
def test_the_scale_of_every_pair_is_pefts(
    base: Path, tmp_path: Path, settings: dict[str, Any], scales: dict[str, float]
) -> None:
    adapter = tmp_path / "adapter"
    make_tiny_adapter(adapter, base, **settings)
    convert_adapter(adapter, base, tmp_path / "a.gguf")
    factors = lora_factors(adapter, read_model(base))
    found = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "a.gguf").tensors}
    alpha = read_header(tmp_path / "a.gguf").metadata["adapter.lora.alpha"]
    names = {
        "q_proj": ("self_attn.q_proj", "blk.1.attn_q.weight"),
        "down_proj": ("mlp.down_proj", "blk.1.ffn_down.weight"),
    }
    for module, (hf, name) in names.items():
        a, b, scale, _ = factors[f"model.layers.1.{hf}.weight"]
        assert scale == pytest.approx(scales[module])
        wanted = scale * (b.astype(np.float64) @ a)
        if module == "q_proj":
            wanted = wanted.reshape(4, 2, 8, 64).swapaxes(1, 2).reshape(64, 64)
        # This is what llama.cpp computes: alpha / rank · B @ A.
        low, high = found[f"{name}.lora_a"], found[f"{name}.lora_b"]
        np.testing.assert_allclose(alpha / low.shape[0] * (high.astype(np.float64) @ low), wanted, rtol=1e-5, atol=1e-7)


def test_an_adapter_of_some_modules_in_half_precision(base: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    make_tiny_adapter(adapter, base, modules=("self_attn.q_proj", "self_attn.v_proj"))
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file({name: w.astype(np.float16) for name, w in weights.items()}, adapter / "adapter_model.safetensors")
    assert convert_adapter(adapter, base, tmp_path / "a.gguf")["tensors"] == 8
    assert {info.type for info in read_header(tmp_path / "a.gguf").tensors.values()} == {"F32"}


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"peft_type": "LOHA"}, "of the kind 'LOHA'"),
        ({"use_dora": True}, "use_dora: DoRA scales whole rows.*\n.*export the merged model"),
        ({"lora_bias": True}, "lora_bias"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4'.*changes the weights of the base"),
        ({"init_lora_weights": "olora"}, "'olora'"),
        ({"lora_alpha": 0}, "lora_alpha is 0"),
        ({"lora_alpha": None}, "lora_alpha is None"),
        ({"lora_alpha": "16"}, "lora_alpha is '16'"),
        ({"alpha_pattern": {"q_proj": "x"}}, "alpha_pattern"),
        ({"alpha_pattern": {"(": 3}}, r"alpha_pattern has the pattern '\('"),
        ({"rank_pattern": [1]}, "rank_pattern"),
        ({"r": 8}, "rank of .* is 4.*says 8"),
    ],
)
def test_what_a_lora_gguf_cannot_express_is_refused(
    base: Path, tmp_path: Path, values: dict[str, Any], what: str
) -> None:
    make_tiny_adapter(tmp_path / "adapter", base)
    change(tmp_path / "adapter", **values)
    with pytest.raises(ExportError, match=what):
        convert_adapter(tmp_path / "adapter", base, tmp_path / "a.gguf")
    assert not (tmp_path / "a.gguf").exists()


ROOT = "base_model.model.model"


@pytest.mark.parametrize(
    ("name", "shape", "what"),
    [
        (f"{ROOT}.layers.0.mlp.up_proj.lora_magnitude_vector", (128,), "a magnitude vector for .*says use_dora: false"),
        (f"{ROOT}.embed_tokens.lora_embedding_A", (4, 700), "lora_embedding_A.*only pairs"),
        (f"{ROOT}.embed_tokens.weight", (700, 64), "embed_tokens.weight.*only pairs"),
        (f"{ROOT}.embed_tokens.lora_A.weight", (4, 64), "changes 'model.embed_tokens'.*embeddings"),
        ("base_model.model.lm_head.lora_A.weight", (4, 64), "changes 'lm_head'.*another base"),
        (f"{ROOT}.layers.2.mlp.up_proj.lora_A.weight", (4, 64), r"layers\.2\.mlp\.up_proj'.*another base"),
        (f"{ROOT}.layers.0.mlp.up_proj.lora_A.weight", (4, 96), r"shapes \(4, 96\).*\(128, 64\).*another base"),
        (f"{ROOT}.layers.0.mlp.up_proj.lora_B.weight", (128, 5), "shapes.*another base"),
        (f"{ROOT}.layers.0.mlp.up_proj.lora_B.weight", None, r"half of the pair for 'model\.layers\.0\.mlp\.up_proj'"),
    ],
)
def test_tensors_that_do_not_belong_are_refused(
    base: Path, tmp_path: Path, name: str, shape: tuple[int, ...] | None, what: str
) -> None:
    make_tiny_adapter(tmp_path / "adapter", base)
    change_tensors(tmp_path / "adapter", **{name: None if shape is None else np.ones(shape, dtype=np.float32)})
    with pytest.raises(ExportError, match=what):
        convert_adapter(tmp_path / "adapter", base, tmp_path / "a.gguf")


def test_an_empty_or_missing_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    make_tiny_adapter(tmp_path / "adapter", base, modules=())
    with pytest.raises(ExportError, match="empty"):
        convert_adapter(tmp_path / "adapter", base, tmp_path / "a.gguf")
    with pytest.raises(ExportError, match=r"adapter_config\.json: the file cannot be read"):
        convert_adapter(tmp_path / "none", base, tmp_path / "a.gguf")
