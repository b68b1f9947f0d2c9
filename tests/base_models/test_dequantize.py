from __future__ import annotations

import contextlib
import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from dlmbuild.base_models.dequantize import checkpoint_from_gguf
from dlmbuild.errors import BaseModelError, DlmError
from dlmbuild.export.conversion import convert_base
from dlmbuild.export.quantize import quantize_base
from dlmbuild.io.gguf_file import Planned, entry, read_header, write_gguf
from tests.tiny import make_tiny_base, write_json


@pytest.fixture
def base(tmp_path: Path) -> Path:
    make_tiny_base(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def f16(base: Path, tmp_path: Path) -> Path:
    convert_base(base, tmp_path / "f16.gguf", name="tiny")
    return tmp_path / "f16.gguf"


def data_of(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text()))


def rewritten(path: Path, changed: dict[str, bytes], *, without: tuple[str, ...] = ()) -> Path:
    """The GGUF `path` with some metadata exchanged."""
    header = read_header(path)
    kept = {key: held for key, held in header.entries.items() if key not in without}
    out = path.with_name("rewritten.gguf")
    plan = [Planned(name, info.type, info.shape) for name, info in header.tensors.items()]
    data = path.read_bytes()
    at = {name: slice(info.offset, info.offset + info.nbytes) for name, info in header.tensors.items()}
    write_gguf(out, [*(kept | changed).values()], plan, lambda planned: [data[at[planned.name]]])
    return out


def test_a_checkpoint_survives_the_way_through_f16(base: Path, f16: Path, tmp_path: Path) -> None:
    checkpoint_from_gguf(f16, tmp_path / "back")
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors")
    assert set(before) == set(after)
    for name, weight in before.items():
        exact = weight if weight.ndim == 1 else weight.astype(np.float16).astype(np.float32)
        np.testing.assert_array_equal(after[name], exact, err_msg=name)
    config, original = data_of(tmp_path / "back" / "config.json"), data_of(base / "config.json")
    assert {key: config[key] for key in original} == original
    assert "quantization_config" not in config and str(tmp_path) not in json.dumps(config)
    assert data_of(tmp_path / "back" / "generation_config.json") == data_of(base / "generation_config.json")
    assert (tmp_path / "back" / "chat_template.jinja").read_text() == (base / "chat_template.jinja").read_text()


def test_the_tokenizer_is_the_same(base: Path, f16: Path, tmp_path: Path) -> None:
    checkpoint_from_gguf(f16, tmp_path / "back")
    before = Tokenizer.from_file(str(base / "tokenizer.json"))
    after = Tokenizer.from_file(str(tmp_path / "back" / "tokenizer.json"))
    assert before.get_vocab() == after.get_vocab()
    texts = ("The keeper climbs 212 steps.", "a  23 ½ \n\n x", "<|im_start|>user\nHi<|im_end|>", "ß🙂 <|im_end", "")
    for text in texts:
        assert before.encode(text).ids == after.encode(text).ids
        assert after.decode(after.encode(text).ids, skip_special_tokens=False) == text
    config = data_of(tmp_path / "back" / "tokenizer_config.json")
    original = data_of(base / "tokenizer_config.json")
    assert config == original


def test_the_same_file_gives_the_same_bytes(f16: Path, tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        checkpoint_from_gguf(f16, tmp_path / name)
        files = sorted((tmp_path / name).iterdir())
        digests.append([(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files])
    assert digests[0] == digests[1]
    assert [name for name, _ in digests[0]] == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


@pytest.mark.parametrize("quant", ["Q8_0", "Q4_K_M"])
def test_quantised_weights_come_back_as_what_they_stand_for(f16: Path, tmp_path: Path, quant: str) -> None:
    import gguf

    quantize_base(f16, quant, tmp_path / "q.gguf", threads=1)
    checkpoint_from_gguf(tmp_path / "q.gguf", tmp_path / "back")
    after = load_file(tmp_path / "back" / "model.safetensors")
    reader = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "q.gguf").tensors}
    down = reader["blk.1.ffn_down.weight"]
    np.testing.assert_array_equal(
        after["model.layers.1.mlp.down_proj.weight"], gguf.dequantize(down.data, down.tensor_type)
    )
    # Going back to GGUF and quantising again must find the same grid: values, not only names, are where they were.
    convert_base(tmp_path / "back", tmp_path / "again.gguf", name="tiny")
    query = reader["blk.0.attn_q.weight"]
    again = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "again.gguf").tensors}["blk.0.attn_q.weight"]
    exact = gguf.dequantize(query.data, query.tensor_type).astype(np.float16)
    np.testing.assert_array_equal(again.data, exact)


def test_unused_rows_of_the_embedding_are_no_tokens(base: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    tensors = load_file(base / "model.safetensors")
    embedding = tensors["model.embed_tokens.weight"]
    tensors["model.embed_tokens.weight"] = np.concatenate([embedding, embedding[:4]])
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    write_json(base / "config.json", data_of(base / "config.json") | {"vocab_size": 704})
    convert_base(base, tmp_path / "f16.gguf", name="tiny")
    metadata = read_header(tmp_path / "f16.gguf").metadata
    assert metadata["tokenizer.ggml.tokens"][700:] == ["[PAD700]", "[PAD701]", "[PAD702]", "[PAD703]"]
    assert metadata["tokenizer.ggml.token_type"][699:] == [1, 5, 5, 5, 5]
    checkpoint_from_gguf(tmp_path / "f16.gguf", tmp_path / "back")
    assert Tokenizer.from_file(str(tmp_path / "back" / "tokenizer.json")).get_vocab_size() == 700
    assert data_of(tmp_path / "back" / "config.json")["vocab_size"] == 704


def test_a_tokenizer_that_adds_bos_keeps_doing_so(f16: Path, tmp_path: Path) -> None:
    path = rewritten(f16, {"tokenizer.ggml.add_bos_token": entry("tokenizer.ggml.add_bos_token", True)})
    checkpoint_from_gguf(path, tmp_path / "back")
    tokenizer = Tokenizer.from_file(str(tmp_path / "back" / "tokenizer.json"))
    assert tokenizer.encode("a").ids == [1, *tokenizer.encode("a", add_special_tokens=False).ids]
    convert_base(tmp_path / "back", tmp_path / "again.gguf", name="tiny")
    assert read_header(tmp_path / "again.gguf").metadata["tokenizer.ggml.add_bos_token"] is True


@pytest.mark.parametrize(
    ("key", "entry", "what"),
    [
        (
            "general.architecture",
            entry("general.architecture", "qwen2"),
            "architecture 'qwen2'.*LlamaForCausalLM",
        ),
        ("general.type", entry("general.type", "adapter"), "'adapter' and no model"),
        ("llama.expert_count", entry("llama.expert_count", 8), "mixture of experts"),
        ("llama.block_count", entry("llama.block_count", 3), "missing"),
        ("llama.block_count", entry("llama.block_count", 1 << 31), "block_count"),
        ("llama.block_count", entry("llama.block_count", 1), "unknown tensor"),
        ("llama.embedding_length", entry("llama.embedding_length", 0), "embedding_length is 0"),
        ("llama.feed_forward_length", entry("llama.feed_forward_length", "x"), "feed_forward_length is 'x'"),
        ("llama.attention.head_count", entry("llama.attention.head_count", 3), "dimension_count is 16 and not 21"),
        ("llama.attention.head_count_kv", entry("llama.attention.head_count_kv", 3), "fit no model"),
        ("llama.rope.dimension_count", entry("llama.rope.dimension_count", 8), "dimension_count is 8"),
        ("llama.rope.freq_base", entry("llama.rope.freq_base", float("nan")), "freq_base is nan"),
        ("llama.rope.scaling.type", entry("llama.rope.scaling.type", "yarn"), "embeddings are scaled"),
        ("tokenizer.ggml.model", entry("tokenizer.ggml.model", "llama"), "kind 'llama'"),
        ("tokenizer.ggml.pre", entry("tokenizer.ggml.pre", "viking"), "'viking' is not known"),
        ("tokenizer.ggml.tokens", entry("tokenizer.ggml.tokens", ["a"] * 700), "listed twice"),
        ("tokenizer.ggml.tokens", entry("tokenizer.ggml.tokens", ["a"]), "lists 1 tokens"),
        ("tokenizer.ggml.merges", entry("tokenizer.ggml.merges", ["a b c"]), "not two tokens"),
        ("tokenizer.ggml.merges", entry("tokenizer.ggml.merges", ["zzzz qqqq"]), "of unknown tokens"),
        ("tokenizer.ggml.token_type", entry("tokenizer.ggml.token_type", ["a"] * 700), "has the type 'a'"),
        ("tokenizer.ggml.eos_token_id", entry("tokenizer.ggml.eos_token_id", 700), "eos token has the id 700"),
    ],
)
def test_what_is_not_supported_is_named(f16: Path, tmp_path: Path, key: str, entry: bytes, what: str) -> None:
    path = rewritten(f16, {key: entry})
    with pytest.raises(BaseModelError, match=what):
        checkpoint_from_gguf(path, tmp_path / "back")
    assert not (tmp_path / "back" / "model.safetensors").exists()


def test_numbers_that_are_none_are_refused(f16: Path, tmp_path: Path) -> None:
    info = read_header(f16).tensors["blk.1.ffn_up.weight"]
    data = bytearray(f16.read_bytes())
    data[info.offset + 64 : info.offset + 66] = b"\xff\x7f"
    f16.write_bytes(data)
    with pytest.raises(BaseModelError, match=r"blk\.1\.ffn_up\.weight holds a number that is not finite"):
        checkpoint_from_gguf(f16, tmp_path / "back")


def test_missing_metadata_is_named(f16: Path, tmp_path: Path) -> None:
    for key in ("llama.block_count", "tokenizer.ggml.tokens", "tokenizer.ggml.merges", "tokenizer.ggml.pre"):
        with pytest.raises(BaseModelError):
            checkpoint_from_gguf(rewritten(f16, {}, without=(key,)), tmp_path / "back")


def test_random_damage_never_escapes(f16: Path, tmp_path: Path) -> None:
    data = f16.read_bytes()
    header = read_header(f16)
    source = random.Random(0)
    path = tmp_path / "damaged.gguf"
    for _ in range(60):
        changed = bytearray(data)
        for _ in range(source.choice((1, 3))):
            changed[source.randrange(header.data_offset)] = source.randrange(256)
        path.write_bytes(changed)
        with contextlib.suppress(DlmError):
            checkpoint_from_gguf(path, tmp_path / "back")
