from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dlmbuild.base_models import resolve
from dlmbuild.base_models.reference import parse_reference
from dlmbuild.base_models.resolve import fetch, fetch_base
from dlmbuild.errors import BaseModelError, Where
from dlmbuild.io.digest import canonical_json, sha256_file
from dlmbuild.io.progress import silent
from tests.tiny import make_tiny_base, write_json

MakeCheckpoint = Callable[..., Path]
Shapes = dict[str, tuple[int, ...]]
WriteTensors = Callable[[Path, Shapes], None]


def fetch_folder(folder: Path, out: Path) -> dict[str, Any]:
    return fetch(parse_reference(f"file:{folder}", folder.parent), out)


def refused(folder: Path) -> BaseModelError:
    with pytest.raises(BaseModelError) as raised:
        fetch_folder(folder, folder.parent / "out")
    assert raised.value.do
    return raised.value


def test_a_folder_is_copied_and_described(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    folder, out = make_checkpoint(), tmp_path / "out"
    (folder / "LICENSE").write_text("free")
    (folder / "modeling_x.py").write_text("raise SystemExit")
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    facts = fetch_folder(folder, out)
    names = ["LICENSE", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert facts["files"] == {name: sha256_file(folder / name) for name in names}
    assert facts["key"] == f"folder-{facts['revision']}" and len(facts["revision"]) == 16
    expected = {
        "architecture": "LlamaForCausalLM",
        "parameters": 36,
        "layers": 1,
        "hidden_size": 4,
        "vocab_size": 8,
        "context_length": 64,
        "tied": True,
        "dtype": "float32",
        "license": None,
        "source": {"kind": "folder"},
    }
    assert {name: facts[name] for name in expected} == expected


def test_facts_do_not_tell_where_the_folder_was(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    first = make_checkpoint("a/one")
    second = tmp_path / "b" / "other"
    shutil.copytree(first, second)
    facts = [canonical_json(fetch_folder(folder, folder.parent / "out")) for folder in (first, second)]
    assert facts[0] == facts[1] and str(tmp_path).encode() not in facts[0]


def test_another_content_is_another_revision(make_checkpoint: MakeCheckpoint) -> None:
    first, second = make_checkpoint("a/base"), make_checkpoint("b/base", max_position_embeddings=128)
    revisions = {fetch_folder(folder, folder.parent / "out")["revision"] for folder in (first, second)}
    assert len(revisions) == 2


def test_the_job_reads_its_reference_as_text(tmp_path: Path) -> None:
    make_tiny_base(tmp_path / "documents" / "base")
    facts = fetch_base(parse_reference("file:./base", tmp_path / "documents").as_data(), tmp_path / "out", silent)
    assert facts["layers"] == 2
    assert (facts["pre_tokenizer"], facts["converter"]) == ("smollm", None)


def change(folder: Path, **values: Any) -> None:
    write_json(folder / "config.json", {**json.loads((folder / "config.json").read_text()), **values})


@pytest.mark.parametrize(
    ("values", "file", "what"),
    [
        ({"architectures": ["FancyForCausalLM"]}, "/config.json", "the architecture 'FancyForCausalLM'"),
        ({"hidden_act": "gelu"}, "/config.json", "hidden_act is 'gelu'"),
        ({"num_hidden_layers": 3}, "", "layers.2."),
        ({"num_hidden_layers": 4096}, "", "promises 4096 layers"),
    ],
)
def test_nothing_is_copied_of_a_base_that_cannot_be_built_on(
    tmp_path: Path, values: dict[str, Any], file: str, what: str
) -> None:
    make_tiny_base(tmp_path / "base")
    change(tmp_path / "base", **values)
    with pytest.raises(BaseModelError) as raised:
        fetch_base(parse_reference("file:./base", tmp_path).as_data(), tmp_path / "out", silent)
    assert str(raised.value.where) == f"{tmp_path / 'base'}{file}" and what in str(raised.value) and raised.value.do
    assert not any((tmp_path / "out").iterdir())


@pytest.mark.parametrize("step", ["inspect", "conversion_facts"])
def test_the_copy_is_never_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    make_tiny_base(tmp_path / "base")

    def wrong(folder: Path, *_: object) -> None:
        file = f"{folder}/x"
        raise BaseModelError(f"{file} is bad", where=Where(file, 1, 2), why=f"{file} is", do=f"mend {file}")

    def lost(folder: Path, *_: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", f"{folder}/x")

    x = tmp_path / "base" / "x"
    for fail, told in (
        (wrong, f"{x}:1:2: {x} is bad: {x} is\n  → mend {x}"),
        (lost, f"the base file:./base could not be read or written: [Errno 2] No such file or directory: '{x}'\n  → "),
    ):
        monkeypatch.setattr(resolve, step, fail)
        with pytest.raises(BaseModelError) as caught:
            fetch_base(parse_reference("file:./base", tmp_path).as_data(), tmp_path / "out", silent)
        assert str(caught.value).startswith(told)


def test_shards_are_taken_and_counted_together(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, write_tensors: WriteTensors
) -> None:
    folder = make_checkpoint(tie_word_embeddings=None)
    (folder / "model.safetensors").unlink()
    parts: dict[str, Shapes] = {
        "model-1-of-2.safetensors": {"a": (2, 3)},
        "model-2-of-2.safetensors": {"lm_head.weight": (5,)},
    }
    for name, shapes in parts.items():
        write_tensors(folder / name, shapes)
    weight_map = {tensor: name for name, shapes in parts.items() for tensor in shapes}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "consolidated.safetensors").write_bytes(b"not taken")
    facts = fetch_folder(folder, tmp_path / "out")
    assert facts["parameters"] == 11 and facts["tied"] is False
    assert set(parts) < set(facts["files"]) and "consolidated.safetensors" not in facts["files"]

    (folder / "model-2-of-2.safetensors").unlink()
    assert "model-2-of-2.safetensors" in refused(folder).why


@pytest.mark.parametrize("index", [{}, {"weight_map": {}}, {"weight_map": {"a": 1}}, {"weight_map": {"a": "../x"}}])
def test_an_index_that_says_nothing_usable_is_refused(make_checkpoint: MakeCheckpoint, index: dict[str, Any]) -> None:
    folder = make_checkpoint()
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "index.json" in str(refused(folder).where)


def test_a_tied_matrix_that_is_stored_twice_counts_once(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, write_tensors: WriteTensors
) -> None:
    folder = make_checkpoint()
    write_tensors(folder / "model.safetensors", {"model.embed_tokens.weight": (8, 4), "lm_head.weight": (8, 4)})
    assert fetch_folder(folder, tmp_path / "out")["parameters"] == 32


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(make_checkpoint: MakeCheckpoint, name: str) -> None:
    folder = make_checkpoint()
    (folder / name).unlink()
    assert name in str(refused(folder))


def test_a_folder_that_is_not_there_or_is_a_file(tmp_path: Path) -> None:
    assert "no folder" in refused(tmp_path / "nothing").what
    (tmp_path / "file").touch()
    assert "no folder" in refused(tmp_path / "file").what


def test_pickles_are_not_loaded(make_checkpoint: MakeCheckpoint) -> None:
    folder = make_checkpoint()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    error = refused(folder)
    assert "pickle" in error.why and "save_pretrained" in error.do


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_weights_is_refused(make_checkpoint: MakeCheckpoint, name: str) -> None:
    folder = make_checkpoint()
    data = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**data, "auto_map": {"AutoModel": "modeling.Model"}}))
    error = refused(folder)
    assert "auto_map" in error.what and name in str(error.where)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_a_weight_that_is_not_a_number(make_checkpoint: MakeCheckpoint, number: float, dtype: str) -> None:
    folder = make_checkpoint()
    weights = np.zeros(36, np.float32)
    weights[17] = 3e38 if dtype != "F16" else 0
    sound = _stored(weights, dtype)
    (folder / "model.safetensors").write_bytes(sound)
    assert fetch_folder(folder, folder.parent / "sound")["parameters"] == 36
    weights[35] = number
    (folder / "model.safetensors").write_bytes(_stored(weights, dtype))
    error = refused(folder)
    assert "'w' holds an infinity or something that is not a number" in error.why and "fetch" in error.do


def _stored(weights: NDArray[np.float32], dtype: str) -> bytes:
    with np.errstate(over="ignore"):
        f16 = weights.astype(np.float16)
    bf16 = (weights.view(np.uint32) >> 16).astype(np.uint16)
    data = {"F32": weights, "F16": f16, "BF16": bf16}[dtype].tobytes()
    described = {"dtype": dtype, "shape": [weights.size], "data_offsets": [0, len(data)]}
    return header(json.dumps({"w": described}).encode(), data)


def test_the_linear_layers_of_a_base(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, write_tensors: WriteTensors
) -> None:
    folder = make_checkpoint()
    shapes = {
        f"model.layers.{layer}.self_attn.{name}.weight": (4, 4) for layer in (0, 1) for name in ("q_proj", "o_proj")
    }
    others: Shapes = {
        "model.embed_tokens.weight": (8, 4),
        "model.layers.0.norm.weight": (4,),
        "model.layers.0.moe.experts.3.w1.weight": (4, 4),
        "lm_head.weight": (8, 4),
        "weight": (2, 2),
    }
    write_tensors(folder / "model.safetensors", {**shapes, **others})
    assert fetch_folder(folder, tmp_path / "out")["linear_layers"] == ["o_proj", "q_proj"]


def test_a_quantised_checkpoint_is_refused(make_checkpoint: MakeCheckpoint) -> None:
    assert "quantised" in refused(make_checkpoint(quantization_config={"bits": 4})).what


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": None},
        {"num_hidden_layers": 0},
        {"hidden_size": "4"},
        {"vocab_size": True},
        {"max_position_embeddings": 1.5},
        {"architectures": None},
        {"architectures": []},
        {"architectures": [1]},
    ],
)
def test_a_config_that_does_not_say_what_is_needed(make_checkpoint: MakeCheckpoint, changes: dict[str, Any]) -> None:
    error = refused(make_checkpoint(**changes))
    assert "config.json" in str(error.where) and next(iter(changes)) in error.what + error.why


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"a": 1, "a": 2}', b"[" * 100_000])
def test_json_that_is_damaged(make_checkpoint: MakeCheckpoint, name: str, content: bytes) -> None:
    folder = make_checkpoint()
    (folder / name).write_bytes(content)
    with pytest.raises(BaseModelError, match=name):
        fetch_folder(folder, folder.parent / "out")


def header(text: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        struct.pack("<Q", 1 << 62),
        header(b"{}"),
        header(b"[]"),
        header(b"{"),
        header(b'{"a": 1}'),
        header(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'),
        header(b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', bytes(4)),
        header(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}', bytes(8)),
        header(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', bytes(8)),
        header(b'{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}', bytes(4)),
    ],
)
def test_weights_that_are_damaged(make_checkpoint: MakeCheckpoint, content: bytes) -> None:
    folder = make_checkpoint()
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(BaseModelError, match=r"model\.safetensors"):
        fetch_folder(folder, folder.parent / "out")


def test_links_stay_inside(tmp_path: Path, make_checkpoint: MakeCheckpoint) -> None:
    folder = make_checkpoint()
    (folder / "weights").mkdir()
    (folder / "model.safetensors").rename(folder / "weights" / "w")
    (folder / "model.safetensors").symlink_to("weights/w")
    facts = fetch_folder(folder, tmp_path / "out")
    assert facts["parameters"] == 36 and not (tmp_path / "out" / "model.safetensors").is_symlink()

    secret = tmp_path / "secret"
    secret.write_text("mine")
    (folder / "LICENSE").symlink_to(secret)
    assert "leads out of" in refused(folder).what


@pytest.mark.parametrize("name", ["config.json", "LICENSE", "model.safetensors"])
def test_what_is_not_a_regular_file_does_not_hang(make_checkpoint: MakeCheckpoint, name: str) -> None:
    folder = make_checkpoint()
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)
    assert "regular file" in refused(folder).why
    (folder / name).unlink()
    (folder / name).symlink_to(name)
    assert refused(folder)


def test_a_full_disk_is_seen_before_anything_is_written(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_checkpoint()
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(1000, 900, 100))
    error = refused(folder)
    assert "not enough disk space" in error.what and "DLM_HOME" in error.do
    assert not any((tmp_path / "out").iterdir())


def test_a_disk_that_fills_up_meanwhile(make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    error = refused(make_checkpoint())
    assert "make room" in error.do and error.why.endswith(": No space left on device")


def test_a_gguf_file_is_dequantised_and_known_by_its_content(
    tmp_path: Path, make_checkpoint: MakeCheckpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_checkpoint()
    monkeypatch.setattr(
        resolve, "checkpoint_from_gguf", lambda gguf, out: shutil.copytree(source, out, dirs_exist_ok=True)
    )
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    reference = parse_reference("gguf:./m.gguf", tmp_path)
    facts = fetch(reference, tmp_path / "out")
    digest = sha256_file(tmp_path / "m.gguf")
    assert facts["source"] == {"kind": "gguf", "sha256": digest}
    assert facts["revision"] == digest[:16] and facts["key"] == f"gguf-{digest[:16]}"


def test_a_gguf_file_that_is_not_one(tmp_path: Path) -> None:
    for name in ("missing.gguf", "."):
        with pytest.raises(BaseModelError, match="no file"):
            fetch(parse_reference(f"gguf:{name}", tmp_path), tmp_path / "out")
    (tmp_path / "x.gguf").write_bytes(b"not a model")
    with pytest.raises(BaseModelError):
        fetch(parse_reference("gguf:x.gguf", tmp_path), tmp_path / "out")
