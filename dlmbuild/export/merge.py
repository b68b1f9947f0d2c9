"""A quantised model with the adapter inside, for runtimes that load one file.

The sum is formed in float32 from the checkpoint's own weights, never from rounded ones, and quantised once. The product
of the adapter's factors is summed rank by rank with one multiplication and one addition per number, not by a matrix
product of a BLAS: so its bits depend neither on threads nor on the processor.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlmbuild.base_models.llama import block_order, compare_tensors, to_gguf_rows
from dlmbuild.errors import ExportError, Where
from dlmbuild.export.adapter_gguf import LoraFactors, lora_factors
from dlmbuild.export.base_gguf import read_model, read_weights
from dlmbuild.export.kernels import KERNEL_TYPES, pack_tensor
from dlmbuild.export.quantize import copy_tensor
from dlmbuild.export.tensor_types import quantisation
from dlmbuild.io.gguf_file import Planned, create_gguf, read_header, string_entry
from dlmbuild.io.progress import Progress, silent
from dlmbuild.io.safetensors_file import StoredTensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_CACHED_NUMBERS = 1 << 15
"""Numbers summed at a time: they and their products stay in a processor's own cache."""


def merge_quantized(
    checkpoint: Path,
    adapter: Path,
    base_quant: Path,
    quant: str,
    out: Path,
    *,
    name: str,
    threads: int,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write `base_quant`, the base quantised as `quant`, with the adapter inside to the file `out`.

    Weights that the adapter touches are merged from the checkpoint and given the type they have in `base_quant`; the
    rest and the metadata are copied, general.name becomes `name`. Returns {"merged": count, "types": {type: tensors}}.
    Raises ExportError if the three do not belong together, or as `convert_adapter` does.
    """
    model = read_model(checkpoint)
    stored = read_weights(checkpoint, model)
    factors = lora_factors(adapter, model)
    header = read_header(base_quant)
    where = Where(str(base_quant))
    kind = quantisation(quant)
    if header.metadata.get("general.file_type") != kind.file_type:
        raise ExportError(f"the file is not of the kind {quant}", where=where, do=f"quantise the base to {quant}")
    tensors = {tensor.gguf: tensor for tensor in model.tensors()}
    expected = {tensor.gguf: tensor.shape for tensor in tensors.values()}
    extra = set(header.tensors) - set(expected) if model.rope_scaling else set()
    compare_tensors(expected, {n: t for n, t in header.tensors.items() if n not in extra}, where, ExportError)
    order = sorted(header.tensors, key=block_order)
    plan = [Planned(n, header.tensors[n].type, header.tensors[n].shape) for n in order]
    entries = [string_entry(key, name) if key == "general.name" else entry for key, entry in header.entries.items()]
    total = sum(info.nbytes for info in header.tensors.values())
    done = 0
    with (
        create_gguf(out, entries, plan, header.alignment) as sink,
        ThreadPoolExecutor(threads) as pool,
    ):
        for planned in plan:
            progress(f"merging into {quant}", done, total)
            tensor = tensors.get(planned.name)
            if tensor is None or tensor.hf not in factors:
                sink.put(planned.name, copy_tensor(base_quant, header.tensors[planned.name]))
            else:
                if planned.type not in ("F16", "F32", *KERNEL_TYPES):
                    raise ExportError(f"the tensor {planned.name} is {planned.type}", where=where, why="not supported")
                step = model.head_dim if tensor.permuted else 1
                rows = MergedRows(stored[tensor.hf], factors[tensor.hf], model.head_dim if tensor.permuted else 0)
                sink.put(planned.name, pack_tensor(tensor.hf, tensor.shape, planned.type, rows, pool, threads, step))
            done += planned.nbytes
    progress(f"merging into {quant}", total, total)
    return {"merged": len(factors), "types": dict(sorted(Counter(planned.type for planned in plan).items()))}


class MergedRows:
    """Rows of a weight plus what the adapter adds, in GGUF's order; `head_dim` is 0 where that is the same order."""

    def __init__(self, stored: StoredTensor, factors: LoraFactors, head_dim: int) -> None:
        self.stored = stored
        self.factors = factors
        self.head_dim = head_dim

    def __call__(self, start: int, stop: int) -> NDArray[np.float32]:
        rows = self.stored.rows(start, stop)
        merged = rows + product(self.factors, start, stop)
        return to_gguf_rows(merged, self.head_dim) if self.head_dim else merged


def product(factors: LoraFactors, start: int, stop: int) -> NDArray[np.float32]:
    """Rows `start` to `stop` of scale · b @ a in float32, each number the sum of its products in the order of ranks."""
    import numpy as np

    a = np.ascontiguousarray(factors.a, dtype=np.float32)
    b = np.float32(factors.scale) * factors.b[start:stop]
    total = np.zeros((stop - start, a.shape[1]), dtype=np.float32)
    few = max(1, _CACHED_NUMBERS // a.shape[1])
    terms = np.empty((few, a.shape[1]), dtype=np.float32)
    for first in range(0, stop - start, few):
        part = total[first : first + few]
        buffer = terms[: part.shape[0]]
        for rank in range(a.shape[0]):
            np.multiply(b[first : first + few, rank, None], a[rank], out=buffer)
            np.add(part, buffer, out=part)
    return total
