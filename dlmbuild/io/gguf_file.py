"""The GGUF container, version 3: a reader that trusts nothing and a writer that holds one piece of one tensor.

Both are ours for three reasons: the reader of the `gguf` package needs 2 to 20 CPU seconds for the vocabularies of
today and believes every length it reads; quantising and merging keep a file's metadata, so copying entries as bytes is
all that is wanted of a writer; and the order of entries and tensors stays in our hands, so equal inputs give equal
bytes.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; types and block sizes are the `gguf` package's.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

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


@cache
def types() -> dict[str, Blocks]:
    """How each tensor type packs numbers, by its name in ggml."""
    from gguf import GGML_QUANT_SIZES

    return {kind.name: Blocks(kind.value, *sizes) for kind, sizes in GGML_QUANT_SIZES.items()}


_U32, _I32, _F32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
_U64 = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file."""

    type: str
    """A key of `types`."""
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
    data_offset: int


def row_bytes(type_name: str, columns: int) -> int:
    """Bytes of one row of `columns` numbers, a multiple of the type's block length."""
    blocks = types()[type_name]
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
        return Header(metadata, entries, tensors, data_offset)

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

    def tensor(self, alignment: int) -> tuple[str, TensorInfo]:
        """The next description of a tensor, its offset counted from where the data begins."""
        name = self.text(MAX_NAME_BYTES)
        count = self.number("I")
        if not 1 <= count <= MAX_DIMENSIONS:
            self.fail(f"the tensor {name!r} has {count} dimensions")
        dimensions = [int(self.number("Q")) for _ in range(count)]
        number, offset = self.number("I"), int(self.number("Q"))
        found = [(kind, blocks) for kind, blocks in types().items() if blocks.id == number]
        if not found:
            self.fail(f"the tensor {name!r} has the unknown type {number}")
        kind, blocks = found[0]
        numbers = math.prod(dimensions)
        if not 1 <= numbers < 1 << 60 or dimensions[0] % blocks.length:
            self.fail(f"the tensor {name!r} of type {kind} has the shape {dimensions}")
        if offset % alignment:
            self.fail(f"the tensor {name!r} starts at {offset}, which is no multiple of {alignment}")
        return name, TensorInfo(kind, tuple(reversed(dimensions)), offset, numbers // blocks.length * blocks.size)

    def place(self, described: list[tuple[str, TensorInfo]], data_offset: int) -> dict[str, TensorInfo]:
        tensors: dict[str, TensorInfo] = {}
        for name, info in described:
            if name in tensors:
                self.fail(f"the tensor {name!r} occurs twice")
            if data_offset + info.offset + info.nbytes > self.size:
                self.fail(f"the tensor {name!r} reaches beyond the end of the file: the file is cut off")
            tensors[name] = replace(info, offset=data_offset + info.offset)
        last, last_end = "", data_offset
        for name, tensor in sorted(tensors.items(), key=lambda item: item[1].offset):
            if tensor.offset < last_end:
                self.fail(f"the tensors {last!r} and {name!r} overlap")
            last, last_end = name, tensor.offset + tensor.nbytes
        return tensors


def _aligned(offset: int, alignment: int) -> int:
    return -(-offset // alignment) * alignment


def entry(key: str, value: str | float | list[str] | list[bool] | list[int] | list[float]) -> bytes:
    """A metadata entry: text, a truth value, a whole number (u32, in a list i32) or another (f32), or a list of one."""
    values: list[Any] = value if isinstance(value, list) else [value]
    of = type(values[0]) if values else str
    kind = {str: _STRING, bool: _BOOL, int: _I32 if values is value else _U32, float: _F32}[of]
    head = struct.pack("<IIQ", _ARRAY, kind, len(values)) if values is value else struct.pack("<I", kind)
    if of is str:
        return b"".join([_text(key), head, *map(_text, values)])
    return _text(key) + head + struct.pack(f"<{len(values)}{_SCALARS[kind]}", *values)


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


def write_gguf(
    path: Path,
    entries: Sequence[bytes],
    tensors: Sequence[Planned],
    data: Callable[[Planned], Iterable[bytes | memoryview]],
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> None:
    """Write a GGUF file that appears at `path` when it is whole, and not at all otherwise.

    `data` gives the bytes of a tensor in pieces, and is asked for one after the other; `progress` is told how many
    bytes of how many are written.
    """
    head = [MAGIC, struct.pack("<IQQ", VERSION, len(tensors), len(entries)), *entries]
    total = 0
    for tensor in tensors:
        dimensions = tuple(reversed(tensor.shape))
        head += [_text(tensor.name), struct.pack(f"<I{len(dimensions)}Q", len(dimensions), *dimensions)]
        head.append(struct.pack("<IQ", types()[tensor.type].id, total))
        total = _aligned(total + tensor.nbytes, ALIGNMENT)
    header = b"".join(head)
    with create_atomic(path) as file:
        file.write(header + bytes(-len(header) % ALIGNMENT))
        done = 0
        for tensor in tensors:
            progress(done, total)
            written = sum(map(file.write, data(tensor)))
            if written != tensor.nbytes:
                raise AssertionError(f"{tensor.name} has {written} bytes and not {tensor.nbytes}")
            done += written + file.write(bytes(-written % ALIGNMENT))
        progress(total, total)
