from __future__ import annotations

import contextlib
import json
import random
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dlmbuild.errors import BaseModelError, DlmError, ExportError
from dlmbuild.io.safetensors_file import read_checkpoint, read_safetensors, write_arrays, write_safetensors


def write(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def described(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def test_it_reads_what_the_library_wrote(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((7, 5)).astype(np.float32)
    tensors = {"a": values, "half": values.astype(np.float16), "vector": values[0].copy()}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    read = read_safetensors(tmp_path / "x.safetensors", ExportError)
    assert set(read) == set(tensors)
    np.testing.assert_array_equal(read["a"].rows(2, 6), values[2:6])
    np.testing.assert_array_equal(read["half"].rows(), tensors["half"].astype(np.float32))
    np.testing.assert_array_equal(read["vector"].rows(1, 3), values[0, 1:3])


def test_bf16_is_exact(tmp_path: Path) -> None:
    bits = np.array([[0x3F80, 0xC049, 0x0001], [0x7F7F, 0x8000, 0x4000]], dtype="<u2")
    path = write(tmp_path / "x.safetensors", {"w": described("BF16", [2, 3], 0, 12)}, bits.tobytes())
    rows = read_safetensors(path, ExportError)["w"].rows()
    np.testing.assert_array_equal(rows.view(np.uint32), bits.astype(np.uint32) << 16)
    assert rows[0, 0] == 1.0


def test_the_library_reads_what_it_wrote(tmp_path: Path) -> None:
    values = {"b": np.ones((2, 3), dtype=np.float32), "a": np.zeros(4, dtype=np.float32)}
    write_arrays(tmp_path / "x.safetensors", values)
    read = load_file(tmp_path / "x.safetensors")
    assert all((read[name] == values[name]).all() for name in values)
    with pytest.raises(AssertionError):
        write_safetensors(tmp_path / "y.safetensors", {"a": (4,)}, lambda name: [b"too short"])
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    save_file(values, tmp_path / "z.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "x.safetensors").read_bytes() == (tmp_path / "z.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("header", "data", "what"),
    [
        (b"{", b"", "not sound JSON"),
        (b"[]", b"", "an object was expected"),
        (b"[" * 200_000, b"", "not sound JSON"),
        (b'{"a": NaN}', b"", "not sound JSON"),
        (b'{"a": 1, "a": 2}', b"", "twice"),
        (b"\xff\xfe", b"", "not sound JSON"),
        ({"w": 3}, b"", "is damaged"),
        ({"w": described("F32", [1 << 62, 1 << 62], 0, 4)}, b"1234", "is damaged"),
        ({"w": described("F32", [-1], 0, 4)}, b"1234", "is damaged"),
        ({"w": described("F32", [True], 0, 4)}, b"1234", "is damaged"),
        ({"w": described("F32", [1], 4, 0)}, b"1234", "does not lie in the file"),
        ({"w": described("F32", [2], 0, 8)}, b"1234", "does not lie in the file"),
        ({"w": described("I64", [1], 0, 8)}, b"12345678", "holds I64"),
        ({"w": described("F32", [1], 0, 4)}, b"12345", "longer"),
        ({"v": described("F32", [1], 0, 4), "w": described("F32", [1], 0, 4)}, b"1234", "overlaps"),
        ({"w": described("F32", [1], 4, 8)}, b"12345678", "gap"),
    ],
)
def test_damage_is_named(tmp_path: Path, header: Any, data: bytes, what: str) -> None:
    with pytest.raises(BaseModelError, match=what):
        read_safetensors(write(tmp_path / "x.safetensors", header, data), BaseModelError)


def test_random_damage_never_escapes(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"w": np.ones((3, 4), dtype=np.float32), "v": np.ones(5, dtype=np.float16)}, path)
    data = path.read_bytes()
    source = random.Random(0)
    for _ in range(600):
        changed = bytearray(data[: source.choice((len(data), source.randrange(len(data))))])
        for _ in range(source.choice((0, 1, 3)) if changed else 0):
            changed[source.randrange(len(changed))] = source.randrange(256)
        path.write_bytes(changed)
        with contextlib.suppress(DlmError):
            for tensor in read_safetensors(path, ExportError).values():
                tensor.rows()


def test_shards_are_joined_and_checked(tmp_path: Path) -> None:
    one = np.ones((2, 2), dtype=np.float32)
    save_file({"a": one}, tmp_path / "model-1.safetensors")
    save_file({"b": one}, tmp_path / "model-2.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    assert set(read_checkpoint(tmp_path, ExportError)) == {"a", "b"}
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "c": "model-2.safetensors"}}))
    with pytest.raises(ExportError, match="'c' is in none"):
        read_checkpoint(tmp_path, ExportError)
    index.write_text(json.dumps({"weight_map": {"a": "../model-1.safetensors"}}))
    with pytest.raises(ExportError, match="not a file of this folder"):
        read_checkpoint(tmp_path, ExportError)
