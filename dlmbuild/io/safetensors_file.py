"""safetensors with numpy alone: rows of one tensor at a time, bf16 included, and a writer that streams.

Format: https://github.com/huggingface/safetensors (8 bytes of header length, a JSON header, the data).
"""

from __future__ import annotations

import json
import math
import shutil
import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlmbuild.errors import DlmError, Where
from dlmbuild.io.atomic import create_atomic
from dlmbuild.io.json_file import parse_json_object, read_json_object

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_HEADER_BYTES = 100 << 20  # the limit of the reference implementation
INDEX = "model.safetensors.index.json"
FLOATS = ("F32", "F16", "BF16")
_BYTES = dict(zip(FLOATS, (4, 2, 2), strict=True))
_EXPONENTS = {"F32": ("<u4", 0x7F800000), "F16": ("<u2", 0x7C00), "BF16": ("<u2", 0x7F80)}
"""How a number is stored, and the bits of it that are all set in infinities and in what is not a number."""
_SLAB_NUMBERS = 1 << 22


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor in a safetensors file."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    def rows(self, start: int = 0, stop: int | None = None) -> NDArray[np.float32]:
        """Rows `start` to `stop` as float32: exact, since it holds every bf16 and f16.

        The array may be a read-only view of the file. A tensor of one dimension counts as one row per number.
        """
        import numpy as np

        stop = self.shape[0] if stop is None else stop
        width = math.prod(self.shape[1:]) * _BYTES[self.dtype]
        kind: np.dtype[Any] = np.dtype({"F32": "<f4", "F16": "<f2", "BF16": "<u2"}[self.dtype])
        shape = (stop - start, *self.shape[1:])
        stored = np.memmap(self.path, dtype=kind, mode="r", offset=self.offset + start * width, shape=shape)
        if self.dtype == "BF16":
            return (np.asarray(stored).astype(np.uint32) << np.uint32(16)).view(np.float32)
        return np.asarray(stored).astype(np.float32, copy=False)

    def is_finite(self) -> bool:
        """Whether every number is one, looked at a slab at a time."""
        import numpy as np

        kind, exponent = _EXPONENTS[self.dtype]
        count = self.nbytes // np.dtype(kind).itemsize
        stored = np.memmap(self.path, dtype=kind, mode="r", offset=self.offset, shape=(count,))
        slabs = (stored[start : start + _SLAB_NUMBERS] for start in range(0, count, _SLAB_NUMBERS))
        return not any(bool(((slab & exponent) == exponent).any()) for slab in slabs)

    def is_equal(self, other: StoredTensor) -> bool:
        """Whether two tensors are stored as the same bytes, compared a slab at a time."""
        import numpy as np

        if (self.dtype, self.shape) != (other.dtype, other.shape):
            return False
        kind = np.dtype(np.uint8)
        one, two = (np.memmap(t.path, dtype=kind, mode="r", offset=t.offset, shape=(t.nbytes,)) for t in (self, other))
        step = 4 * _SLAB_NUMBERS
        return all(np.array_equal(one[i : i + step], two[i : i + step]) for i in range(0, self.nbytes, step))


def read_safetensors(path: Path, error: type[DlmError]) -> dict[str, StoredTensor]:
    """The tensors of one file by name, checked to lie inside it and apart from each other.

    Raises `error` for a file that is not sound, or holds a tensor that is neither F32, F16 nor BF16.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(8)
            length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
            head += file.read(length) if length <= min(size - 8, MAX_HEADER_BYTES) else b""
    except OSError as problem:
        raise error("the file cannot be read", where=Where(str(path)), why=problem.strerror or str(problem)) from None
    return described_tensors(path, head, size, error)


def described_tensors(path: Path, head: bytes, size: int, error: type[DlmError]) -> dict[str, StoredTensor]:
    """The tensors of the file `path` of `size` bytes that begins with `head`, as `read_safetensors` has them."""
    where = Where(str(path))
    length = struct.unpack("<Q", head[:8])[0] if len(head) >= 8 else size
    if length > min(size, len(head)) - 8:
        raise error("this is not a safetensors file, or it is cut off", where=where, do="fetch it again")
    header = parse_json_object(head[8 : 8 + length], where, error)
    header.pop("__metadata__", None)
    tensors = {name: _tensor(path, name, fields, 8 + length, size, error) for name, fields in header.items()}
    end = 8 + length
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if tensor.offset != end:
            raise error(f"the tensor {name!r} overlaps another or leaves a gap", where=where, do="fetch it again")
        end += tensor.nbytes
    if end != size:
        raise error("the file is longer than its tensors", where=where, do="fetch it again")
    return tensors


def _tensor(path: Path, name: str, fields: Any, start: int, size: int, error: type[DlmError]) -> StoredTensor:
    where = Where(str(path))
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise error(f"the description of the tensor {name!r} is damaged", where=where, do="fetch the file again")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2 or not 1 <= len(shape) <= 4 or 0 in shape:
        raise error(f"the description of the tensor {name!r} is damaged", where=where, do="fetch the file again")
    if dtype not in FLOATS:
        raise error(f"the tensor {name!r} holds {dtype}", where=where, why=f"only {', '.join(FLOATS)} are read")
    nbytes = _BYTES[dtype] * math.prod(shape)
    if offsets[1] - offsets[0] != nbytes or start + offsets[1] > size:
        raise error(f"the tensor {name!r} does not lie in the file", where=where, do="fetch the file again")
    return StoredTensor(path, dtype, tuple(shape), start + offsets[0], nbytes)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 1 << 60 for item in value)


def read_checkpoint(folder: Path, error: type[DlmError]) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint folder: of model.safetensors, or of the shards that its index names."""
    if not (folder / INDEX).is_file():
        return read_safetensors(folder / "model.safetensors", error)
    where = Where(str(folder / INDEX))
    weight_map = read_json_object(folder / INDEX, error).get("weight_map")
    if not isinstance(weight_map, dict):
        raise error("the index names no tensors", where=where)
    tensors: dict[str, StoredTensor] = {}
    for shard in sorted({str(shard) for shard in weight_map.values()}):
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise error(f"the index names {shard!r}, which is not a file of this folder", where=where)
        held = read_safetensors(folder / shard, error)
        if repeated := sorted(set(held) & set(tensors)):
            raise error(f"the tensor {repeated[0]!r} is in two shards", where=where)
        tensors |= held
    if missing := sorted(set(weight_map) - set(tensors)):
        raise error(f"the tensor {missing[0]!r} is in none of the shards", where=where, do="fetch the base again")
    return tensors


def copy_safetensors(source: Path, out: Path, metadata: Mapping[str, str], error: type[DlmError]) -> None:
    """Write the tensors of `source` to the file `out`, with `metadata` instead of what the file says of itself.

    Raises `error` as `read_safetensors` does.
    """
    read_safetensors(source, error)
    with source.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(length))
        with create_atomic(out) as copy:
            copy.write(_head({**header, "__metadata__": dict(sorted(metadata.items()))}))
            shutil.copyfileobj(file, copy)


def write_safetensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], data: Callable[[str], Iterable[bytes]]
) -> None:
    """Write a file of float32 tensors that appears at `path` when it is whole.

    `data` gives the bytes of a tensor in pieces, and is asked for one after the other. The bytes of the file depend on
    nothing but names, shapes and data; `format: pt` is what transformers asks for.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in sorted(shapes):
        start, end = end, end + 4 * math.prod(shapes[name])
        header[name] = {"dtype": "F32", "shape": list(shapes[name]), "data_offsets": [start, end]}
    with create_atomic(path) as file:
        file.write(_head(header))
        if sum(file.write(piece) for name in sorted(shapes) for piece in data(name)) != end:
            raise AssertionError("the data written does not fill the tensors")


def write_arrays(path: Path, arrays: Mapping[str, NDArray[np.float32]]) -> None:
    """Write arrays as a safetensors file: see `write_safetensors`."""
    shapes = {name: array.shape for name, array in arrays.items()}
    write_safetensors(path, shapes, lambda name: [arrays[name].astype("<f4", copy=False).tobytes()])


def _head(header: Mapping[str, Any]) -> bytes:
    """What a file begins with."""
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
