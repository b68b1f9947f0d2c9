"""The GGUF container, version 3: a reader that trusts nothing and a writer that holds one piece of one tensor.

Both are ours for three reasons: the reader of the `gguf` package needs 2 to 20 CPU seconds for the vocabularies of
today and believes every length it reads; quantising and merging keep a file's metadata, so copying entries as bytes is
all that is wanted of a writer; and the order of entries and tensors stays in our hands, so equal inputs give equal
bytes.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (types and block sizes: ggml-common.h).
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from dlmbuild.errors import DlmError, ExportError, Where
from dlmbuild.io.atomic import create_atomic

MAGIC = b"GGUF"
VERSION = 3
ALIGNMENT = 32
"""Of tensor data, unless `general.alignment` says otherwise."""

MAX_ENTRIES = 1 << 16
MAX_TENSORS = 1 << 16
MAX_DIMENSIONS = 4
MAX_NAME_BYTES = 63  # llama.cpp keeps 64 with the final zero
MAX_KEY_BYTES = 65535
MAX_HEADER_BYTES = 256 << 20
MAX_ARRAY_ITEMS = 1 << 22
"""In all arrays of a file together; a vocabulary of 262,144 tokens has about 1.3 million."""


class Blocks(NamedTuple):
    """How a tensor type packs numbers: `length` numbers in `size` bytes."""

    id: int
    length: int
    size: int


TYPES = {
    "F32": Blocks(0, 1, 4),
    "F16": Blocks(1, 1, 2),
    "Q4_0": Blocks(2, 32, 18),
    "Q4_1": Blocks(3, 32, 20),
    "Q5_0": Blocks(6, 32, 22),
    "Q5_1": Blocks(7, 32, 24),
    "Q8_0": Blocks(8, 32, 34),
    "Q8_1": Blocks(9, 32, 40),
    "Q2_K": Blocks(10, 256, 84),
    "Q3_K": Blocks(11, 256, 110),
    "Q4_K": Blocks(12, 256, 144),
    "Q5_K": Blocks(13, 256, 176),
    "Q6_K": Blocks(14, 256, 210),
    "Q8_K": Blocks(15, 256, 292),
    "IQ2_XXS": Blocks(16, 256, 66),
    "IQ2_XS": Blocks(17, 256, 74),
    "IQ3_XXS": Blocks(18, 256, 98),
    "IQ1_S": Blocks(19, 256, 50),
    "IQ4_NL": Blocks(20, 32, 18),
    "IQ3_S": Blocks(21, 256, 110),
    "IQ2_S": Blocks(22, 256, 82),
    "IQ4_XS": Blocks(23, 256, 136),
    "I8": Blocks(24, 1, 1),
    "I16": Blocks(25, 1, 2),
    "I32": Blocks(26, 1, 4),
    "I64": Blocks(27, 1, 8),
    "F64": Blocks(28, 1, 8),
    "IQ1_M": Blocks(29, 256, 56),
    "BF16": Blocks(30, 1, 2),
    "TQ1_0": Blocks(34, 256, 54),
    "TQ2_0": Blocks(35, 256, 66),
    "MXFP4": Blocks(39, 32, 17),
}
_NAME_OF_TYPE = {blocks.id: name for name, blocks in TYPES.items()}

_U32, _F32, _BOOL, _STRING, _ARRAY = 4, 6, 7, 8, 9
_I32 = 5
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_U64 = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file."""

    type: str
    """A key of TYPES."""
    shape: tuple[int, ...]
    """Rows first, as numpy and PyTorch have it; the file stores the reverse."""
    offset: int
    """Bytes from the start of the file."""
    nbytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """Everything in a GGUF file but the numbers."""

    metadata: dict[str, Any]
    """Decoded values: int, float, bool, str, or a list of one of them."""
    entries: dict[str, bytes]
    """The same entries as they stand in the file (key, type and value), in the file's order, to be copied."""
    tensors: dict[str, TensorInfo]
    alignment: int
    data_offset: int


def row_bytes(type_name: str, columns: int) -> int:
    """Bytes of one row of `columns` numbers, a multiple of the type's block length."""
    blocks = TYPES[type_name]
    return columns // blocks.length * blocks.size


def read_header(path: Path, error: type[DlmError] = ExportError) -> Header:
    """The header of the GGUF file `path`, checked: bounded counts, sound text, tensors inside the file and apart.

    Costs 0.1 CPU seconds for 50,000 tokens and memory in proportion to the header, never to what a damaged length
    claims. Raises `error` for anything that is not a sound GGUF file of version 3.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise error("the file is empty", where=Where(str(path)), do="fetch or build it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
                return _Parser(view, path, error).header()
    except OSError as problem:
        raise error("the file cannot be read", where=Where(str(path)), why=problem.strerror or str(problem)) from None


class _Parser:
    def __init__(self, view: mmap.mmap, path: Path, error: type[DlmError]) -> None:
        self.view = view
        self.path = path
        self.error = error
        self.size = len(view)
        self.end = min(self.size, MAX_HEADER_BYTES)
        self.at = 0
        self.items = 0

    def fail(self, why: str) -> NoReturn:
        raise self.error(
            "this is not a sound GGUF file",
            where=Where(str(self.path)),
            why=why,
            do="fetch or build the file again",
        )

    def take(self, count: int) -> bytes:
        if count > self.end - self.at:
            over = "ends too early" if self.end == self.size else f"has more than {MAX_HEADER_BYTES} bytes"
            self.fail(f"its header {over}")
        data = self.view[self.at : self.at + count]
        self.at += count
        return data

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def text(self, limit: int = MAX_HEADER_BYTES) -> str:
        length = _U64.unpack(self.take(8))[0]
        if length > limit:
            self.fail(f"a text of {length} bytes at byte {self.at - 8}, where at most {limit} are allowed")
        try:
            return str(self.take(length), "utf-8")
        except UnicodeDecodeError:
            self.fail(f"the text at byte {self.at - length} is not UTF-8")

    def texts(self, count: int) -> list[str]:
        # A vocabulary is most of a header: `text`, with nothing looked up on the way.
        view, length, at, last = self.view, _U64.unpack_from, self.at, self.end - 8
        found: list[str] = []
        with contextlib.suppress(UnicodeDecodeError):
            while len(found) < count and at <= last:
                end = at + 8 + length(view, at)[0]
                if end > self.end:
                    break
                found.append(str(view[at + 8 : end], "utf-8"))
                at = end
        self.at = at
        if len(found) < count:
            self.text()  # says what is wrong with it
        return found

    def header(self) -> Header:
        if self.take(4) != MAGIC:
            self.fail("it does not start with the letters GGUF")
        version = self.number("I")
        if version != VERSION:
            turned = " (a big-endian file?)" if version == VERSION << 24 else ""
            self.fail(f"its version is {version}{turned}, and only {VERSION} is read")
        tensor_count, entry_count = self.number("Q"), self.number("Q")
        if tensor_count > MAX_TENSORS or entry_count > MAX_ENTRIES:
            self.fail(f"it claims {tensor_count} tensors and {entry_count} metadata entries")
        metadata: dict[str, Any] = {}
        entries: dict[str, bytes] = {}
        for _ in range(entry_count):
            start = self.at
            key = self.text(MAX_KEY_BYTES)
            if key in metadata:
                self.fail(f"the key {key!r} occurs twice")
            metadata[key] = self.value(key)
            entries[key] = self.view[start : self.at]
        alignment = metadata.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or not 8 <= alignment <= 1 << 20 or alignment & (alignment - 1):
            self.fail(f"general.alignment is {alignment!r}, which is no power of two from 8 on")
        described = [self.tensor(alignment) for _ in range(tensor_count)]
        data_offset = _aligned(self.at, alignment)
        tensors = self.place(described, data_offset)
        return Header(metadata, entries, tensors, alignment, data_offset)

    def value(self, key: str) -> Any:
        kind = self.number("I")
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            return self.array(key)
        if kind not in _SCALARS:
            self.fail(f"the value of {key!r} has the unknown type {kind}")
        value = self.number(_SCALARS[kind])
        return self.truth(key, value) if kind == _BOOL else value

    def array(self, key: str) -> list[Any]:
        kind, count = self.number("I"), self.number("Q")
        self.items += count
        if self.items > MAX_ARRAY_ITEMS:
            self.fail(f"{key!r} brings the items of its arrays to {self.items}, and {MAX_ARRAY_ITEMS} are allowed")
        if kind == _STRING:
            if count * 8 > self.end - self.at:
                self.fail(f"{key!r} claims {count} texts, more than its header can hold")
            return self.texts(count)
        if kind not in _SCALARS:
            self.fail(f"{key!r} is an array of the type {kind}, and only numbers, truth values and texts are read")
        code = _SCALARS[kind]
        values = list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(f"<{code}"))))
        return [self.truth(key, value) for value in values] if kind == _BOOL else values

    def truth(self, key: str, value: int) -> bool:
        if value > 1:
            self.fail(f"{key!r} holds {value} where a truth value should be")
        return value == 1

    def tensor(self, alignment: int) -> tuple[str, str, tuple[int, ...], int, int]:
        name = self.text(MAX_NAME_BYTES)
        count = self.number("I")
        if not 1 <= count <= MAX_DIMENSIONS:
            self.fail(f"the tensor {name!r} has {count} dimensions")
        dimensions = [int(self.number("Q")) for _ in range(count)]
        kind, offset = self.number("I"), int(self.number("Q"))
        if kind not in _NAME_OF_TYPE:
            self.fail(f"the tensor {name!r} has the unknown type {kind}")
        blocks = TYPES[_NAME_OF_TYPE[kind]]
        numbers = math.prod(dimensions)
        if not 1 <= numbers < 1 << 60 or dimensions[0] % blocks.length:
            self.fail(f"the tensor {name!r} of type {_NAME_OF_TYPE[kind]} has the shape {dimensions}")
        if offset % alignment:
            self.fail(f"the tensor {name!r} starts at {offset}, which is no multiple of {alignment}")
        shape = tuple(reversed(dimensions))
        return name, _NAME_OF_TYPE[kind], shape, offset, numbers // blocks.length * blocks.size

    def place(
        self, described: list[tuple[str, str, tuple[int, ...], int, int]], data_offset: int
    ) -> dict[str, TensorInfo]:
        tensors: dict[str, TensorInfo] = {}
        for name, kind, shape, offset, nbytes in described:
            if name in tensors:
                self.fail(f"the tensor {name!r} occurs twice")
            if data_offset + offset + nbytes > self.size:
                self.fail(f"the tensor {name!r} reaches beyond the end of the file: the file is cut off")
            tensors[name] = TensorInfo(kind, shape, data_offset + offset, nbytes)
        last, last_end = "", data_offset
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
            if tensor.offset < last_end:
                self.fail(f"the tensors {last!r} and {name!r} overlap")
            last, last_end = name, tensor.offset + tensor.nbytes
        return tensors


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def string_entry(key: str, value: str) -> bytes:
    """A metadata entry that holds text."""
    return _text(key) + struct.pack("<I", _STRING) + _text(value)


def u32_entry(key: str, value: int) -> bytes:
    return _text(key) + struct.pack("<II", _U32, value)


def f32_entry(key: str, value: float) -> bytes:
    return _text(key) + struct.pack("<If", _F32, value)


def bool_entry(key: str, value: bool) -> bytes:
    return _text(key) + struct.pack("<IB", _BOOL, value)


def strings_entry(key: str, values: Sequence[str]) -> bytes:
    return _text(key) + struct.pack("<IIQ", _ARRAY, _STRING, len(values)) + b"".join(map(_text, values))


def i32s_entry(key: str, values: Sequence[int]) -> bytes:
    return _text(key) + struct.pack(f"<IIQ{len(values)}i", _ARRAY, _I32, len(values), *values)


def f32s_entry(key: str, values: Sequence[float]) -> bytes:
    return _text(key) + struct.pack(f"<IIQ{len(values)}f", _ARRAY, _F32, len(values), *values)


def bools_entry(key: str, values: Sequence[bool]) -> bytes:
    return _text(key) + struct.pack("<IIQ", _ARRAY, _BOOL, len(values)) + bytes(values)


def _text(text: str) -> bytes:
    data = text.encode()
    return _U64.pack(len(data)) + data


class Planned(NamedTuple):
    """A tensor that will be written: `shape` is rows first."""

    name: str
    type: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape[:-1]) * row_bytes(self.type, self.shape[-1])


class GgufSink:
    """An open GGUF file that takes the data of the planned tensors, in their order."""

    def __init__(self, file: BinaryIO, tensors: Sequence[Planned], alignment: int) -> None:
        self._file = file
        self._tensors = iter(tensors)
        self._alignment = alignment

    def put(self, name: str, pieces: Iterable[bytes | memoryview]) -> None:
        """Write the next tensor, which must be `name`, as consecutive pieces of its bytes."""
        planned = next(self._tensors, None)
        if planned is None or planned.name != name:
            raise AssertionError(f"{name} is written where {planned} was planned")
        written = 0
        for piece in pieces:
            written += self._file.write(piece)
        if written != planned.nbytes:
            raise AssertionError(f"{name} has {written} bytes and not {planned.nbytes}")
        self._file.write(bytes(-written % self._alignment))

    def finish(self) -> None:
        left = next(self._tensors, None)
        if left is not None:
            raise AssertionError(f"{left.name} was never written")


@contextmanager
def create_gguf(
    path: Path, entries: Iterable[bytes], tensors: Sequence[Planned], alignment: int = ALIGNMENT
) -> Iterator[GgufSink]:
    """Write a GGUF file that appears at `path` when the block ends well, and not at all otherwise."""
    listed = list(entries)
    head = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(listed)), *listed]
    offset = 0
    for tensor in tensors:
        dimensions = tuple(reversed(tensor.shape))
        head += [_text(tensor.name), struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)]
        head.append(struct.pack("<IQ", TYPES[tensor.type].id, offset))
        offset = _aligned(offset + tensor.nbytes, alignment)
    header = b"".join(head)
    with create_atomic(path) as file:
        file.write(header + bytes(-len(header) % alignment))
        sink = GgufSink(file, tensors, alignment)
        yield sink
        sink.finish()
