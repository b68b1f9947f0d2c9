"""A smaller GGUF from the F16 one: llama.cpp's types (`tensor_types`) through llama.cpp's kernels (`kernels`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from dlmbuild.base_models.dequantize import read_rows
from dlmbuild.errors import ExportError, Where
from dlmbuild.export.kernels import pack_tensor
from dlmbuild.export.tensor_types import quantisation, tensor_types
from dlmbuild.io.gguf_file import Planned, TensorInfo, entry, read_header, write_gguf
from dlmbuild.io.progress import Progress, silent

COPY_BYTES = 8 << 20
_QUANTISATION_VERSION = 2  # GGML_QNT_VERSION
_REPLACED = ("general.quantization_version", "general.file_type")


def quantize_base(f16: Path, quant: str, out: Path, *, threads: int, progress: Progress = silent) -> dict[str, Any]:
    """Write the model in `f16` with the quantisation `quant` to the file `out`.

    The file has the bytes that llama.cpp's llama_model_quantize would write; they do not depend on `threads`. For
    "F16" it is a copy. Returns {"types": {type: tensors}, "fallbacks": [names of tensors whose rows no block of the
    meant type divides]}. Raises ExportError for a file that is not in F16 or F32.
    """
    where = Where(str(f16))
    kind = quantisation(quant)
    header = read_header(f16)
    plan, fallbacks = [], []
    for name, (chosen, fell_back) in tensor_types(header, quant, where).items():
        info = header.tensors[name]
        if info.type not in ("F32", "F16"):
            raise ExportError(
                f"the tensor {name} is {info.type}",
                where=where,
                why="quantising what is quantised loses twice",
                do="quantise the F16 file of the base",
            )
        plan.append(Planned(name, chosen, info.shape))
        if fell_back:
            fallbacks.append(name)

    def data(planned: Planned) -> Iterable[bytes]:
        info = header.tensors[planned.name]
        if planned.type == info.type:
            return copy_tensor(f16, info)
        return pack_tensor(planned.name, info.shape, planned.type, partial(read_rows, f16, info), pool, threads)

    # llama.cpp puts what it sets at the end.
    entries = [held for key, held in header.entries.items() if key not in _REPLACED]
    entries += quantisation_entries(kind.file_type)
    with ThreadPoolExecutor(threads) as pool:
        write_gguf(out, entries, plan, data, partial(progress, f"quantising to {quant}"))
    return {"types": dict(sorted(Counter(planned.type for planned in plan).items())), "fallbacks": sorted(fallbacks)}


def quantisation_entries(file_type: int) -> list[bytes]:
    """What tells a reader of the kind of a file."""
    return [entry(_REPLACED[0], _QUANTISATION_VERSION), entry(_REPLACED[1], file_type)]


def copy_tensor(path: Path, info: TensorInfo) -> Iterator[bytes]:
    """The bytes of a tensor, piece by piece."""
    with path.open("rb") as file:
        file.seek(info.offset)
        left = info.nbytes
        while left:
            piece = file.read(min(left, COPY_BYTES))
            if not piece:
                raise ExportError("the file ends too early", where=Where(str(path)), do="build it again")
            left -= len(piece)
            yield piece
