from __future__ import annotations

import contextlib
import random
import struct
import tracemalloc
from pathlib import Path

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlmbuild.errors import DlmError, ExportError
from dlmbuild.export.quantize import quantize_base
from dlmbuild.io.gguf_file import Planned, entry, read_header, write_gguf

ENTRIES = [
    entry("general.architecture", "llama"),
    entry("llama.block_count", 2),
    entry("llama.rope.freq_base", 10000.0),
    entry("tokenizer.ggml.add_bos_token", False),
    entry("tokenizer.ggml.tokens", ["a", "", "Ġé"]),
    entry("tokenizer.ggml.token_type", [1, -3, 4]),
]
TENSORS = [Planned("token_embd.weight", "F16", (3, 32)), Planned("blk.0.ffn_up.weight", "Q8_0", (5, 64))]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.gguf"
    pieces = {"token_embd.weight": [bytes(range(192))], "blk.0.ffn_up.weight": [b"\1" * 300, b"\2" * 40]}
    write_gguf(path, ENTRIES, TENSORS, lambda planned: pieces[planned.name])
    return path


def zeros(planned: Planned) -> list[bytes]:
    return [bytes(planned.nbytes)]


def test_what_is_written_is_read(small: Path) -> None:
    header = read_header(small)
    assert header.metadata == {
        "general.architecture": "llama",
        "llama.block_count": 2,
        "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.tokens": ["a", "", "Ġé"],
        "tokenizer.ggml.token_type": [1, -3, 4],
    }
    assert list(header.entries.values()) == ENTRIES
    tensor = header.tensors["blk.0.ffn_up.weight"]
    assert (tensor.type, tensor.shape, tensor.nbytes) == ("Q8_0", (5, 64), 340)
    assert small.read_bytes()[tensor.offset :].startswith(b"\1" * 300 + b"\2" * 40)
    assert tensor.offset % 32 == 0 and small.stat().st_size % 32 == 0


def test_the_gguf_package_reads_it_alike(small: Path) -> None:
    reader = gguf.GGUFReader(small)
    assert reader.fields["tokenizer.ggml.tokens"].contents() == ["a", "", "Ġé"]
    header = read_header(small)
    for tensor in reader.tensors:
        ours = header.tensors[tensor.name]
        assert (ours.type, ours.offset) == (tensor.tensor_type.name, tensor.data_offset)
        assert ours.shape == tuple(int(n) for n in reversed(tensor.shape))


def test_what_is_written_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    write_gguf(tmp_path / "x.gguf", ENTRIES, TENSORS, zeros, lambda *numbers: told.append(numbers))
    assert told == [(0, 544), (192, 544), (544, 544)]


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_gguf(tmp_path / "x.gguf", ENTRIES, TENSORS, lambda planned: [bytes(1 // 0)])
    with pytest.raises(AssertionError, match="has 9 bytes and not 192"):
        write_gguf(tmp_path / "x.gguf", ENTRIES, TENSORS, lambda planned: [b"too short"])
    assert list(tmp_path.iterdir()) == []


def damaged(small: Path, old: bytes, new: bytes) -> Path:
    data = small.read_bytes()
    assert data.count(old) == 1
    path = small.with_name("damaged.gguf")
    path.write_bytes(data.replace(old, new))
    return path


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"GGUF", b"GGML", "does not start with the letters GGUF"),
        (b"GGUF\3\0\0\0", b"GGUF\0\0\0\3", "big-endian"),
        (b"GGUF\3\0\0\0", b"GGUF\2\0\0\0", "version is 2"),
        (u64(2) + u64(6), u64(1 << 40) + u64(6), "claims 1099511627776 tensors"),
        (u64(2) + u64(6), u64(2) + u64(1 << 63), "claims 2 tensors and 9223372036854775808 metadata entries"),
        (u64(2) + u64(6), u64(2) + u64(7), "ends too early|unknown type|where at most"),
        (u64(17) + b"llama.block_count", u64(1 << 62) + b"llama.block_count", "where at most 65535 are allowed"),
        (b"llama.block_count", b"llama.block_coun\xff", "not UTF-8"),
        (b"llama.block_count" + b"\4", b"llama.block_count" + b"\x20", "unknown type 32"),
        (struct.pack("<IQ", 8, 3), struct.pack("<IQ", 8, 1 << 50), "items of its arrays"),
        (struct.pack("<IQ", 8, 3), struct.pack("<IQ", 8, 100_000), "more than its header can hold"),
        (struct.pack("<IQ", 5, 3), struct.pack("<IQ", 9, 3), "an array of the type 9"),
        (struct.pack("<IB", 7, 0), struct.pack("<IB", 7, 9), "truth value"),
        (struct.pack("<I2Q", 2, 64, 5), struct.pack("<I2Q", 7, 64, 5), "has 7 dimensions"),
        (struct.pack("<I2Q", 2, 64, 5), struct.pack("<I2Q", 2, 63, 5), "has the shape"),
        (struct.pack("<I2Q", 2, 64, 5), struct.pack("<I2Q", 2, 0, 5), "has the shape"),
        (struct.pack("<I2Q", 2, 64, 5), struct.pack("<I2Q", 2, 1 << 62, 1 << 62), "has the shape"),
        (struct.pack("<I2Q", 2, 64, 5), struct.pack("<I2Q", 2, 64, 50), "cut off"),
        (struct.pack("<IQ", 8, 192), struct.pack("<IQ", 8, 193), "no multiple of 32"),
        (struct.pack("<IQ", 8, 192), struct.pack("<IQ", 8, 160), "overlap"),
        (struct.pack("<IQ", 8, 192), struct.pack("<IQ", 99, 192), "unknown type 99"),
        (b"tokenizer.ggml.tokens", b"tokenizer.ggml.tokenX", None),
    ],
)
def test_damage_is_named(small: Path, old: bytes, new: bytes, why: str | None) -> None:
    path = damaged(small, old, new)
    if why is None:
        assert "tokenizer.ggml.tokenX" in read_header(path).metadata
    else:
        with pytest.raises(ExportError, match=why):
            read_header(path)


def test_a_repeated_key_or_tensor_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.gguf"
    write_gguf(path, [ENTRIES[1], ENTRIES[1]], [], zeros)
    with pytest.raises(ExportError, match=r"key 'llama\.block_count' occurs twice"):
        read_header(path)
    write_gguf(path, [], [TENSORS[0], TENSORS[0]], zeros)
    with pytest.raises(ExportError, match="occurs twice"):
        read_header(path)


@pytest.mark.parametrize("alignment", [0, 4, 24, 1 << 30])
def test_an_odd_alignment_is_refused(tmp_path: Path, alignment: int) -> None:
    path = tmp_path / "odd.gguf"
    write_gguf(path, [entry("general.alignment", alignment)], [], zeros)
    with pytest.raises(ExportError, match="power of two"):
        read_header(path)


def test_every_truncation_is_refused(small: Path) -> None:
    data = small.read_bytes()
    padding = -340 % 32
    for length in range(len(data) - padding):
        small.write_bytes(data[:length])
        with pytest.raises(DlmError):
            read_header(small)


def test_random_damage_never_escapes_and_never_eats_memory(small: Path) -> None:
    data = small.read_bytes()
    header_bytes = read_header(small).data_offset
    source = random.Random(0)
    tracemalloc.start()
    for _ in range(1000):
        changed = bytearray(data)
        for _ in range(source.choice((1, 1, 2, 5))):
            changed[source.randrange(header_bytes)] = source.choice((0, 255, 1 << source.randrange(8), 127))
        small.write_bytes(changed)
        with contextlib.suppress(DlmError):
            read_header(small)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


@st.composite
def mutilated(draw: st.DrawFn, data: bytes) -> bytes:
    """A file with pieces cut out, repeated, overwritten and put in, and perhaps cut off."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.sampled_from((0, 1, 2, 4, 8, 24, 64))))
        new = draw(st.one_of(st.binary(max_size=24), st.just(data[start:stop] * 2), st.just(b"\xff" * (stop - start))))
        data = data[:start] + new + data[stop:]
    return data[: draw(st.one_of(st.just(len(data)), st.integers(0, len(data))))]


@settings(max_examples=400, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_mutilation_ends_in_anything_but_words(tmp_path: Path, data: st.DataObject) -> None:
    whole, small = tmp_path / "whole.gguf", tmp_path / "small.gguf"
    if not whole.exists():
        tensors = [TENSORS[0], Planned("blk.0.ffn_up.weight", "F16", (5, 64))]
        write_gguf(whole, [*ENTRIES, entry("llama.attention.head_count", 4)], tensors, zeros)
    small.write_bytes(data.draw(mutilated(whole.read_bytes())))
    with contextlib.suppress(DlmError):
        header = read_header(small)
        assert all(info.offset + info.nbytes <= small.stat().st_size for info in header.tensors.values())
        quantize_base(small, "Q4_K_M", small.with_name("q.gguf"), threads=1)


def test_missing_empty_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be read"):
        read_header(tmp_path / "none.gguf")
    with pytest.raises(ExportError, match="cannot be read"):
        read_header(tmp_path)
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(ExportError, match="empty"):
        read_header(tmp_path / "empty.gguf")
