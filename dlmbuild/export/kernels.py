"""llama.cpp's quantisation kernels, from the prebuilt library in the package libggml-python.

Rows of a tensor are quantised apart from each other, so any split over threads gives the same bytes.
Source: `ggml_quantize_chunk` in ggml.h; the types it takes are those of `gguf_file.types` by number.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlmbuild.errors import ExportError, MissingExtra
from dlmbuild.io.gguf_file import row_bytes, types

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SLAB_NUMBERS = 1 << 18
"""Numbers that one thread works on at a time, one MB of float32: small tensors keep several threads busy, too."""


def pack_rows(
    name: str, rows: NDArray[np.float32], type_name: str, importance: NDArray[np.float32] | None = None
) -> bytes:
    """Rows of the tensor `name` as the bytes of a tensor type. Raises ExportError for what the type cannot hold.

    `importance` is how much each column matters.
    """
    import numpy as np

    # A number that is not finite makes the sum so; a sum of finite ones may overflow, so this only says where to look.
    if not np.isfinite(rows.sum()) and not np.isfinite(rows).all():
        raise ExportError(f"the tensor {name} holds a number that is not finite", do="train or fetch it again")
    if type_name == "F32":
        return rows.astype("<f4", copy=False).tobytes()
    if type_name == "F16":
        if max(-rows.min(), rows.max()) >= 65520:  # from here on it rounds to infinity
            raise ExportError(f"the tensor {name} holds a number beyond 65504", why="F16 cannot hold it")
        return rows.astype("<f2").tobytes()
    count, columns = rows.shape
    packed = np.empty(count * row_bytes(type_name, columns), dtype=np.uint8)
    source = np.ascontiguousarray(rows, dtype=np.float32)
    if importance is not None and importance.shape != (columns,):
        raise ExportError(f"the importance matrix has {importance.shape[0]} columns for {name}, which has {columns}")
    weights = None if importance is None else importance.ctypes.data
    written = _library().ggml_quantize_chunk(
        types()[type_name].id, source.ctypes.data, packed.ctypes.data, 0, count, columns, weights
    )
    if written != packed.nbytes:
        raise AssertionError(f"{name}: {written} bytes quantised and not {packed.nbytes}")
    return packed.tobytes()


def pack_tensor(
    name: str,
    shape: tuple[int, ...],
    type_name: str,
    rows: Callable[[int, int], NDArray[np.float32]],
    pool: ThreadPoolExecutor,
    threads: int,
    step: int = 1,
    importance: NDArray[np.float32] | None = None,
) -> Iterator[bytes]:
    """The bytes of a tensor, piece by piece in order, from `rows(start, stop)`.

    Pieces start at multiples of `step` rows and do not depend on the number of threads; at most `threads` + 1 of them
    exist at a time. `importance` is how much each column matters, (experts, columns): rows of one expert follow each
    other.
    """
    columns = shape[-1]
    count = math.prod(shape[:-1])
    experts = 1 if importance is None else len(importance)
    if importance is not None and experts != math.prod(shape[:-2]):
        raise ExportError(f"the importance matrix has {experts} experts for {name}, which has the shape {shape}")
    height = count // experts
    slab = max(1, SLAB_NUMBERS // columns // step) * step
    running: list[Future[bytes]] = []
    try:
        for first in range(0, count, height):
            matters = None if importance is None else importance[first // height]
            for start in range(first, first + height, slab):
                if len(running) > threads:
                    yield running.pop(0).result()
                stop = min(first + height, start + slab)
                running.append(pool.submit(_piece, name, rows, start, stop, type_name, matters))
        while running:
            yield running.pop(0).result()
    finally:
        for future in running:
            future.cancel()


def _piece(
    name: str,
    rows: Callable[[int, int], NDArray[np.float32]],
    start: int,
    stop: int,
    type_name: str,
    importance: NDArray[np.float32] | None,
) -> bytes:
    return pack_rows(name, rows(start, stop), type_name, importance)


@cache
def _library() -> Any:
    package = find_spec("libggml")
    if package is None or package.origin is None:
        raise MissingExtra("quantising needs the package libggml-python", do="pip install 'dlmbuild[train]'")
    name = {"darwin": "libggml-base.dylib", "win32": "ggml-base.dll"}.get(sys.platform, "libggml-base.so")
    found = sorted(Path(package.origin).parent.glob(f"*/{name}"))
    if not found:
        raise MissingExtra(
            f"the package libggml-python holds no {name}", do="pip install --force-reinstall libggml-python"
        )
    library = ctypes.CDLL(str(found[0]))
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
    ]
    return library
