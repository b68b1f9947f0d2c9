from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dlmbuild.errors import ExportError
from dlmbuild.export.adapter_gguf import LoraFactors, lora_factors
from dlmbuild.export.base_gguf import read_model
from dlmbuild.export.conversion import convert_base
from dlmbuild.export.kernels import pack_rows
from dlmbuild.export.merge import lengths, merge_quantized, product
from dlmbuild.export.quantize import copy_tensor, quantize_base
from dlmbuild.io.gguf_file import Planned, entry, read_header, write_gguf
from tests.tiny import make_tiny_adapter, make_tiny_base

QUANTS = ("F16", "BF16", "Q8_0", "Q4_K_M", "Q5_K_M", "Q6_K", "Q3_K_M", "IQ4_XS", "IQ3_M", "Q5_1")


def prepare(folder: Path, quant: str, hidden: int = 64, layers: int = 2, **settings: Any) -> dict[str, Any]:
    paths = {"checkpoint": folder / "base", "adapter": folder / "adapter", "base_quant": folder / f"{quant}.gguf"}
    make_tiny_base(paths["checkpoint"], hidden=hidden, layers=layers)
    make_tiny_adapter(paths["adapter"], paths["checkpoint"], **settings)
    convert_base(paths["checkpoint"], folder / "base.F16.gguf", name="tiny")
    quantize_base(folder / "base.F16.gguf", quant, paths["base_quant"], threads=1)
    return paths


def tensors(path: Path) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize(
    "settings",
    [{}, {"use_rslora": True, "ranks": {"q_proj": 2}, "alpha_pattern": {"up_proj": 3}}, {"use_dora": True}],
)
def test_the_merged_weights_are_the_sum(tmp_path: Path, settings: dict[str, Any]) -> None:
    paths = prepare(tmp_path, "F16", **settings)
    done = merge_quantized(**paths, quant="F16", out=tmp_path / "m.gguf", name="merged", threads=1)
    assert done == {"merged": 14, "types": {"F16": 15, "F32": 5}}
    weights, found = load_file(paths["checkpoint"] / "model.safetensors"), tensors(tmp_path / "m.gguf")
    model = read_model(paths["checkpoint"])
    factors = lora_factors(paths["adapter"], model, magnitudes=True)
    for tensor in model.weights():
        wanted = weights[tensor.hf].astype(np.float64)
        if tensor.hf in factors:
            a, b, scale, magnitude = factors[tensor.hf]
            wanted = wanted + scale * (b.astype(np.float64) @ a)
            if magnitude is not None:
                wanted *= (magnitude / np.linalg.norm(wanted, axis=1))[:, None]
        if tensor.permuted:
            wanted = wanted.reshape(-1, 2, 8, 64).swapaxes(1, 2).reshape(wanted.shape)
        np.testing.assert_allclose(found[tensor.gguf].data, wanted, rtol=5e-4, atol=1e-6, err_msg=tensor.hf)


def test_the_lengths_of_rows_do_not_depend_on_what_is_beside_them() -> None:
    rows = np.random.default_rng(5).standard_normal((7, 331)).astype("f4")
    found = lengths(rows)
    np.testing.assert_allclose(found[:, 0], np.linalg.norm(rows.astype("f8"), axis=1), rtol=1e-14)
    for row in range(7):
        assert lengths(np.ascontiguousarray(rows[row : row + 1]))[0] == found[row]
    assert (lengths(np.asfortranarray(rows)) == found).all()


@pytest.mark.parametrize("quant", ["F16", "Q4_K_M"])
def test_dora_merged_by_the_official_converter_is_dora_merged_by_ours(
    tmp_path: Path, quant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = prepare(tmp_path, quant, 256, use_dora=True)
    merge_quantized(**paths, quant=quant, out=tmp_path / "ours.gguf", name="merged", threads=1)
    monkeypatch.setattr("dlmbuild.export.merge.is_known", lambda _: False)
    f16 = tmp_path / "base.F16.gguf"
    merge_quantized(**paths, quant=quant, out=tmp_path / "theirs.gguf", name="merged", threads=2, f16=f16)
    ours, theirs = tensors(tmp_path / "ours.gguf"), tensors(tmp_path / "theirs.gguf")
    for name, tensor in ours.items():
        one, other = (gguf.dequantize(t.data, t.tensor_type) for t in (tensor, theirs[name]))
        np.testing.assert_allclose(one, other, atol=2e-3 if quant == "F16" else 0.1, err_msg=name)


def test_dora_is_refused_where_it_would_be_lost(tmp_path: Path) -> None:
    paths = prepare(tmp_path, "F16", use_dora=True)
    with pytest.raises(ExportError, match="trained with use_dora: DoRA scales whole rows"):
        lora_factors(paths["adapter"], read_model(paths["checkpoint"]))
    file = paths["adapter"] / "adapter_model.safetensors"
    held = load_file(file)
    name = next(key for key in held if "magnitude" in key)
    save_file({key: w[:5] if key == name else w for key, w in held.items()}, file)
    with pytest.raises(ExportError, match="have the shape"):
        lora_factors(paths["adapter"], read_model(paths["checkpoint"]), magnitudes=True)
    save_file({key: w for key, w in held.items() if key != name}, file)
    with pytest.raises(ExportError, match="no magnitude vector for"):
        lora_factors(paths["adapter"], read_model(paths["checkpoint"]), magnitudes=True)


@pytest.mark.parametrize("hidden", [64, 256])
@pytest.mark.parametrize("quant", QUANTS)
def test_it_is_quantising_the_whole_merged_model(tmp_path: Path, quant: str, hidden: int) -> None:
    paths = prepare(tmp_path, quant, hidden)
    merge_quantized(**paths, quant=quant, out=tmp_path / "m.gguf", name="merged", threads=1)
    base, merged = read_header(paths["base_quant"]), read_header(tmp_path / "m.gguf")
    assert merged.metadata == base.metadata | {"general.name": "merged"}
    assert {name: (info.type, info.shape) for name, info in merged.tensors.items()} == {
        name: (info.type, info.shape) for name, info in base.tensors.items()
    }
    model = read_model(paths["checkpoint"])
    factors = lora_factors(paths["adapter"], model)
    weights = load_file(paths["checkpoint"] / "model.safetensors")
    before, after = paths["base_quant"].read_bytes(), (tmp_path / "m.gguf").read_bytes()
    for tensor in model.weights():
        info = merged.tensors[tensor.gguf]
        found = after[info.offset : info.offset + info.nbytes]
        if tensor.hf in factors:
            whole = weights[tensor.hf] + product(factors[tensor.hf], 0, tensor.shape[0])
            if tensor.permuted:
                whole = whole.reshape(4 if "attn_q" in tensor.gguf else 2, 2, hidden // 8, hidden).swapaxes(1, 2)
            assert found == pack_rows("w", np.ascontiguousarray(whole).reshape(tensor.shape), info.type), tensor.gguf
        else:
            at = base.tensors[tensor.gguf].offset
            assert found == before[at : at + info.nbytes], tensor.gguf


@pytest.mark.parametrize("quant", ["F16", "Q4_K_M"])
def test_threads_and_pieces_change_nothing(tmp_path: Path, quant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = prepare(tmp_path, quant, 256)
    files = []
    for threads, numbers, cached in ((1, 1 << 20, 1 << 15), (3, 1 << 12, 1 << 8)):
        monkeypatch.setattr("dlmbuild.export.kernels.SLAB_NUMBERS", numbers)
        monkeypatch.setattr("dlmbuild.export.merge._CACHED_NUMBERS", cached)
        merge_quantized(**paths, quant=quant, out=tmp_path / "m.gguf", name="merged", threads=threads)
        files.append((tmp_path / "m.gguf").read_bytes())
    assert files[0] == files[1]


def test_the_product_is_the_product() -> None:
    random = np.random.default_rng(0)
    a, b = random.standard_normal((8, 300)).astype(np.float32), random.standard_normal((90, 8)).astype(np.float32)
    exact = 0.7 * (b.astype(np.float64) @ a)
    np.testing.assert_allclose(product(LoraFactors(a, b, 0.7), 0, 90), exact, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(
        product(LoraFactors(a, b, 0.7), 30, 31), product(LoraFactors(a, b, 0.7), 0, 90)[30:31]
    )


def test_weights_that_the_adapter_leaves_alone_are_copied(tmp_path: Path) -> None:
    paths = prepare(tmp_path, "Q8_0", modules=("mlp.down_proj",))
    merge_quantized(**paths, quant="Q8_0", out=tmp_path / "m.gguf", name="merged", threads=1)
    before, after = tensors(paths["base_quant"]), tensors(tmp_path / "m.gguf")
    changed = {name for name, tensor in after.items() if (tensor.data != before[name].data).any()}
    assert changed == {"blk.0.ffn_down.weight", "blk.1.ffn_down.weight"}


@pytest.mark.parametrize("own", [True, False])
def test_a_matrix_changes_types_of_what_it_does_not_name(
    tmp_path: Path, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = prepare(tmp_path, "Q4_0", layers=8, modules=("mlp.up_proj",))
    name, matrix = "blk.3.attn_q.weight", tmp_path / "imatrix.gguf"
    plan = [Planned(f"{name}.in_sum2", "F32", (1, 64)), Planned(f"{name}.counts", "F32", (1, 1))]
    write_gguf(matrix, [], plan, lambda planned: [np.ones(planned.shape, "<f4").tobytes()])
    monkeypatch.setattr("dlmbuild.export.merge.is_known", lambda _: own)
    f16 = tmp_path / "base.F16.gguf"
    whole = {"out": tmp_path / "m.gguf", "name": "merged", "threads": 1, "f16": f16, "imatrix": matrix}
    assert merge_quantized(**paths, quant="Q4_0", **whole)["types"] == {"F32": 17, "Q4_0": 55, "Q4_1": 1, "Q8_0": 1}
    exact = load_file(paths["checkpoint"] / "model.safetensors")["model.layers.0.mlp.down_proj.weight"]
    exact = exact if own else exact.astype("f2").astype("f4")
    found = tensors(tmp_path / "m.gguf")["blk.0.ffn_down.weight"]
    assert found.data.tobytes() == pack_rows("w", exact, "Q4_1")


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    paths = prepare(tmp_path, "Q8_0")
    with pytest.raises(ExportError, match="not of the kind Q4_K_M"):
        merge_quantized(**paths, quant="Q4_K_M", out=tmp_path / "m.gguf", name="merged", threads=1)
    make_tiny_base(paths["checkpoint"], layers=3)
    with pytest.raises(ExportError, match=r"blk\.2\.\S+ is missing"):
        merge_quantized(**paths, quant="Q8_0", out=tmp_path / "m.gguf", name="merged", threads=1)
    make_tiny_base(paths["checkpoint"], hidden=128)
    with pytest.raises(ExportError, match="another base"):
        merge_quantized(**paths, quant="Q8_0", out=tmp_path / "m.gguf", name="merged", threads=1)
    assert not (tmp_path / "m.gguf").exists()


def test_a_vocabulary_of_another_length_is_refused(tmp_path: Path) -> None:
    paths = prepare(tmp_path, "F16")
    held = read_header(paths["base_quant"])
    tokens = held.metadata["tokenizer.ggml.tokens"]
    longer = entry("tokenizer.ggml.tokens", [*tokens, "one more"])
    changed = [longer if key == "tokenizer.ggml.tokens" else old for key, old in held.entries.items()]
    plan = [Planned(key, info.type, info.shape) for key, info in held.tensors.items()]
    write_gguf(
        tmp_path / "longer.gguf",
        changed,
        plan,
        lambda planned: copy_tensor(paths["base_quant"], held.tensors[planned.name]),
    )
    paths["base_quant"] = tmp_path / "longer.gguf"
    with pytest.raises(ExportError, match=rf"has {len(tokens) + 1} tokens, and the embedding {len(tokens)} rows"):
        merge_quantized(**paths, quant="F16", out=tmp_path / "m.gguf", name="merged", threads=1)


def test_a_sum_that_is_no_number_is_refused(tmp_path: Path) -> None:
    paths = prepare(tmp_path, "Q8_0")
    file = paths["adapter"] / "adapter_model.safetensors"
    held = load_file(file)
    held["base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"][3, 2] = np.nan
    save_file(held, file)
    with pytest.raises(ExportError, match=r"layers\.1\.mlp\.up_proj\.weight holds a number that is not finite"):
        merge_quantized(**paths, quant="Q8_0", out=tmp_path / "m.gguf", name="merged", threads=1)
    assert not (tmp_path / "m.gguf").exists()
