from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dlmbuild.errors import BaseModelError, ExportError
from dlmbuild.export.base_gguf import read_model
from dlmbuild.export.conversion import convert_base
from dlmbuild.io.gguf_file import read_header
from tests.tiny import make_tiny_base, write_json


@pytest.fixture
def base(tmp_path: Path) -> Path:
    make_tiny_base(tmp_path / "base")
    return tmp_path / "base"


def change(path: Path, **values: Any) -> None:
    data = json.loads(path.read_text()) | values
    write_json(path, {key: value for key, value in data.items() if value is not ...})


def test_metadata(base: Path, tmp_path: Path) -> None:
    assert convert_base(base, tmp_path / "f16.gguf", name="a name") == {"tensors": 20}
    metadata = read_header(tmp_path / "f16.gguf").metadata
    short = {key: value for key, value in metadata.items() if not isinstance(value, list)}
    assert short == {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "a name",
        "llama.block_count": 2,
        "llama.context_length": 2048,
        "llama.embedding_length": 64,
        "llama.feed_forward_length": 128,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.rope.freq_base": 10000.0,
        "llama.attention.layer_norm_rms_epsilon": float(np.float32(1e-5)),
        "llama.vocab_size": 700,
        "llama.rope.dimension_count": 16,
        "tokenizer.ggml.add_space_prefix": False,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": (base / "chat_template.jinja").read_text(),
        "general.quantization_version": 2,
        "general.file_type": 1,
    }
    assert metadata["tokenizer.ggml.tokens"][:4] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "!"]
    assert metadata["tokenizer.ggml.token_type"] == [3, 3, 3, *[1] * 697]
    assert len(metadata["tokenizer.ggml.merges"]) == 700 - 3 - 256


def test_tensors(base: Path, tmp_path: Path) -> None:
    convert_base(base, tmp_path / "f16.gguf", name="tiny")
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "f16.gguf").tensors}
    weights = load_file(base / "model.safetensors")
    assert "output.weight" not in tensors
    for name, tensor in tensors.items():
        assert tensor.tensor_type.name == ("F32" if "_norm" in name else "F16")
    np.testing.assert_array_equal(
        tensors["blk.1.ffn_down.weight"].data, weights["model.layers.1.mlp.down_proj.weight"].astype(np.float16)
    )
    np.testing.assert_array_equal(
        tensors["blk.0.attn_norm.weight"].data, weights["model.layers.0.input_layernorm.weight"]
    )
    # Head by head, number i of the first half and number i of the second become neighbours.
    key = weights["model.layers.0.self_attn.k_proj.weight"].astype(np.float16)
    for head in range(2):
        for i in range(8):
            np.testing.assert_array_equal(tensors["blk.0.attn_k.weight"].data[16 * head + 2 * i], key[16 * head + i])
            np.testing.assert_array_equal(
                tensors["blk.0.attn_k.weight"].data[16 * head + 2 * i + 1], key[16 * head + 8 + i]
            )


def test_neither_place_nor_format_of_the_weights_matters(base: Path, tmp_path: Path) -> None:
    convert_base(base, tmp_path / "one.gguf", name="tiny")
    weights = load_file(base / "model.safetensors")
    other = tmp_path / "elsewhere"
    make_tiny_base(other)
    names = sorted(weights)
    save_file({name: weights[name] for name in names[:7]}, other / "model-1.safetensors")
    save_file({name: weights[name] for name in names[7:]}, other / "model-2.safetensors")
    (other / "model.safetensors").unlink()
    index = {name: f"model-{1 if name in names[:7] else 2}.safetensors" for name in names}
    write_json(other / "model.safetensors.index.json", {"weight_map": index})
    change(other / "config.json", rope_parameters=..., rope_theta=10000.0, torch_dtype="float32", _name_or_path="/x")
    convert_base(other, tmp_path / "two.gguf", name="tiny")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "two.gguf").read_bytes()


def test_an_output_layer_of_its_own(tmp_path: Path) -> None:
    make_tiny_base(tmp_path / "base", tied=False)
    convert_base(tmp_path / "base", tmp_path / "f16.gguf", name="tiny")
    assert read_header(tmp_path / "f16.gguf").tensors["output.weight"].shape == (700, 64)
    change(tmp_path / "base" / "config.json", tie_word_embeddings=True)
    with pytest.raises(ExportError, match=r"holds lm_head\.weight"):
        convert_base(tmp_path / "base", tmp_path / "f16.gguf", name="tiny")


def test_the_rotary_factors_of_llama_31(base: Path, tmp_path: Path) -> None:
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_type": "llama3"}
    rope = {**scaling, "original_max_position_embeddings": 256, "rope_theta": 10000.0}
    change(base / "config.json", rope_parameters=rope)
    convert_base(base, tmp_path / "f16.gguf", name="tiny")
    factors = {tensor.name: tensor.data for tensor in gguf.GGUFReader(tmp_path / "f16.gguf").tensors}[
        "rope_freqs.weight"
    ]
    wavelengths = 2 * np.pi * 10000.0 ** (np.arange(8) / 8)
    smooth = (256 / wavelengths - 1) / 3
    between = 1 / ((1 - smooth) / 8 + smooth)
    expected = np.where(wavelengths < 64, 1, np.where(wavelengths > 256, 8, between))
    assert sorted(set(np.sign(wavelengths - 64))) == [-1, 1] and (expected == between).any()
    np.testing.assert_allclose(factors, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"hidden_size": -64}, "hidden_size is -64"),
        ({"hidden_size": 128}, "promises"),
        ({"num_hidden_layers": 3}, r"layers\.2\.\S+ is missing"),
        ({"num_hidden_layers": 1}, r"unknown tensor model\.layers\.1"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is"),
        ({"num_key_value_heads": 3}, "fit no model"),
        ({"rms_norm_eps": None}, "rms_norm_eps is None"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "scaled by 'yarn'"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "factor is None"),
        ({"rope_parameters": [1]}, "rotary parameters"),
        ({"vocab_size": 699}, "promises"),
    ],
)
def test_a_configuration_that_does_not_fit_is_named(
    base: Path, tmp_path: Path, values: dict[str, Any], what: str
) -> None:
    change(base / "config.json", **values)
    with pytest.raises(ExportError, match=what):
        convert_base(base, tmp_path / "f16.gguf", name="tiny")


def test_an_architecture_without_a_table_is_named(base: Path) -> None:
    change(base / "config.json", architectures=["MambaForCausalLM"])
    with pytest.raises(ExportError, match=r"architecture \['MambaForCausalLM'\].*known: Gemma2ForCausalLM"):
        read_model(base)
    change(base / "config.json", architectures=...)
    with pytest.raises(ExportError, match="architecture None"):
        read_model(base)


@pytest.mark.parametrize(
    ("file", "values", "what"),
    [
        ("tokenizer.json", {"model": {"type": "BPE", "merges": []}}, "cuts|no vocabulary"),
        ("tokenizer.json", {"normalizer": {"type": "NFC"}}, "normalises"),
        ("tokenizer.json", {"added_tokens": [{"id": 5, "content": "x"}]}, "share the id 5"),
        ("tokenizer.json", {"added_tokens": [{"id": 700, "content": "<|new|>"}]}, "has the id 700.*700 rows"),
        ("tokenizer.json", {"added_tokens": [3]}, "added token 3"),
        ("tokenizer.json", {"added_tokens": 3}, "no list"),
        ("tokenizer.json", {"post_processor": {"type": "BertProcessing"}}, "post-processor is"),
        (
            "tokenizer.json",
            {"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|endoftext|>"}}]}},
            "wraps texts",
        ),
        ("tokenizer_config.json", {"eos_token": "<|none|>"}, "eos token '<|none|>' is not in the vocabulary"),
        ("tokenizer_config.json", {"eos_token": ["a"]}, "is not in the vocabulary"),
    ],
)
def test_a_tokenizer_that_does_not_fit_is_named(
    base: Path, tmp_path: Path, file: str, values: dict[str, Any], what: str
) -> None:
    change(base / file, **values)
    with pytest.raises((ExportError, BaseModelError), match=what.replace("|none|", r"\|none\|")):
        convert_base(base, tmp_path / "f16.gguf", name="tiny")


def test_damaged_merges_are_named(base: Path, tmp_path: Path) -> None:
    data = json.loads((base / "tokenizer.json").read_text())
    data["model"]["merges"][5] = ["a", "nowhere"]
    write_json(base / "tokenizer.json", data)
    with pytest.raises(ExportError, match="does not join two tokens"):
        convert_base(base, tmp_path / "f16.gguf", name="tiny")


def test_where_the_chat_template_comes_from(base: Path, tmp_path: Path) -> None:
    def template() -> Any:
        convert_base(base, tmp_path / "f16.gguf", name="tiny")
        return read_header(tmp_path / "f16.gguf").metadata.get("tokenizer.chat_template")

    change(base / "tokenizer_config.json", chat_template="from the configuration")
    assert template() == (base / "chat_template.jinja").read_text()
    (base / "chat_template.jinja").unlink()
    assert template() == "from the configuration"
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    change(base / "tokenizer_config.json", chat_template=named)
    assert template() == "yes"
    change(base / "tokenizer_config.json", chat_template=...)
    assert template() is None


def test_special_tokens_fall_back_to_the_configuration(base: Path, tmp_path: Path) -> None:
    change(base / "tokenizer_config.json", eos_token=..., bos_token={"content": "<|im_start|>", "__type": "AddedToken"})
    convert_base(base, tmp_path / "f16.gguf", name="tiny")
    metadata = read_header(tmp_path / "f16.gguf").metadata
    assert (metadata["tokenizer.ggml.bos_token_id"], metadata["tokenizer.ggml.eos_token_id"]) == (1, 2)


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_missing_and_damaged_files_are_named(base: Path, tmp_path: Path, file: str) -> None:
    # The configuration says first whether the base is one of a known family.
    kind = BaseModelError if file == "config.json" else ExportError
    (base / file).write_bytes(b"\x00\xff{")
    with pytest.raises(kind, match=file):
        convert_base(base, tmp_path / "f16.gguf", name="tiny")
    (base / file).unlink()
    with pytest.raises(kind, match=file):
        convert_base(base, tmp_path / "f16.gguf", name="tiny")
