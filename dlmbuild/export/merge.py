"""A quantised model with the adapter inside, for runtimes that load one file.

The sum is formed in float32 from the checkpoint's own weights, never from rounded ones, and quantised once. The product
of the adapter's factors is summed rank by rank with one multiplication and one addition per number, not by a matrix
product of a BLAS: so its bits depend neither on threads nor on the processor. The same holds for the lengths of rows
that DoRA sets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dlmbuild.base_models.convertible import is_known, weights_of
from dlmbuild.base_models.decoder import block_order, compare_tensors, to_gguf_rows
from dlmbuild.doc.names import WEIGHED
from dlmbuild.errors import ExportError, Where
from dlmbuild.export.adapter_gguf import LoraFactors, lora_factors, require_base
from dlmbuild.export.base_gguf import CheckpointRows, read_model
from dlmbuild.export.conversion import merge_sources
from dlmbuild.export.imatrix import read_importance
from dlmbuild.export.kernels import pack_tensor
from dlmbuild.export.lineage import general_entries
from dlmbuild.export.quantize import copy_tensor, quantisation_entries
from dlmbuild.export.tensor_types import needs_importance, quantisation, tensor_types
from dlmbuild.export.vocabulary import general_name
from dlmbuild.io.atomic import staging_folder
from dlmbuild.io.gguf_file import Header, Planned, entry, read_header, write_gguf
from dlmbuild.io.progress import Progress, silent

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_OF_THE_FILE = ("general.architecture", "general.type")
"""Keys that a merged model has as its base; the other general ones say what the base is."""
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
    general: Mapping[str, str | int] = MappingProxyType({}),
    threads: int,
    f16: Path | None = None,
    imatrix: Path | None = None,
    base: Mapping[str, str] | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write `base_quant`, the base quantised as `quant`, with the adapter inside to the file `out`.

    Weights that the adapter touches are merged from the checkpoint and given the type they have in `base_quant`; the
    rest and the metadata are copied, general.name becomes `name` and what describes the base becomes `general`. Kinds
    that there are only by an importance matrix have no such file: there `base_quant` is the base in F16, too. A base
    that llama.cpp's converter made is merged from `f16`, its GGUF. With `base`, the digests of the checkpoint's files,
    an adapter of another is refused. With `imatrix`, the types are those that llama.cpp chooses with a matrix, and the
    weights that it names are all rounded by it; they and those of another type than in `base_quant` are rounded from
    the checkpoint, too. Returns {"merged": count, "types": {type: tensors}}, the count of those not copied. Raises
    ExportError if the files do not belong together, or as `convert_adapter` does.
    """
    if base is not None:
        require_base(adapter, base)
    header, where = read_header(base_quant), Where(str(base_quant))
    _check_vocabulary(header, where)
    held = "F16" if quant in WEIGHED else quant
    if header.metadata.get("general.file_type") != quantisation(held).file_type:
        raise ExportError(f"the file is not of the kind {held}", where=where, do=f"quantise the base to {held}")
    importance = read_importance(imatrix) if imatrix is not None else {}
    plan = _types(header, quant, importance, where)
    anew = {planned.name for planned in plan if planned.type != header.tensors[planned.name].type} | {*importance}
    with staging_folder(out.parent) as scratch:
        if is_known(checkpoint):
            merged = _own_sources(adapter, checkpoint, base_quant, header, anew)
        else:
            stored, factors = merge_sources(adapter, checkpoint, f16 or base_quant, anew, scratch, progress)
            merged = {key: (key, rows, 1) for key, rows in stored.items()}
            merged |= {key: (key, MergedRows(stored[key], pair, 0), 1) for key, pair in factors.items()}
        entries = [header.entries[key] for key in _OF_THE_FILE]
        entries += quantisation_entries(quantisation(quant).file_type)
        entries += [entry("general.name", general_name(checkpoint, name)), *general_entries(general)]
        entries += [held for key, held in header.entries.items() if not key.startswith("general.")]

        def data(planned: Planned) -> Iterable[bytes]:
            if planned.name not in merged:
                return copy_tensor(base_quant, header.tensors[planned.name])
            label, rows, step = merged[planned.name]
            weights = importance.get(planned.name)
            return pack_tensor(label, planned.shape, planned.type, rows, pool, threads, step, weights)

        with ThreadPoolExecutor(threads) as pool:
            write_gguf(out, entries, plan, data, partial(progress, f"merging into {quant}"))
    return {"merged": len(merged), "types": dict(sorted(Counter(planned.type for planned in plan).items()))}


def _types(header: Header, quant: str, importance: Collection[str], where: Where) -> list[Planned]:
    """The tensors of the merged file in their order. Raises ExportError for one that lacks the importance it needs."""
    if quant not in WEIGHED and not importance:
        names = sorted(header.tensors, key=block_order)
        return [Planned(name, header.tensors[name].type, header.tensors[name].shape) for name in names]
    plan = []
    for name, (kind, _) in tensor_types(header, quant, where, weighed=True).items():
        if name not in importance and needs_importance(name, kind, quant):
            what = f"{quant} is made by an importance matrix, and {name} is not in it"
            raise ExportError(what, why="its inputs were not measured", do="export Q2_K or IQ3_S")
        plan.append(Planned(name, kind, header.tensors[name].shape))
    return plan


def _check_vocabulary(header: Header, where: Where) -> None:
    """Every token has its row, and every row its token."""
    tokens, embedding = header.metadata.get("tokenizer.ggml.tokens"), header.tensors.get("token_embd.weight")
    if isinstance(tokens, list) and embedding is not None and len(tokens) != embedding.shape[0]:
        raise ExportError(
            f"the vocabulary has {len(tokens)} tokens, and the embedding {embedding.shape[0]} rows",
            where=where,
            do="build the base's GGUF again",
        )


def _own_sources(
    adapter: Path, checkpoint: Path, base_quant: Path, header: Header, anew: Collection[str]
) -> dict[str, tuple[str, Callable[[int, int], Any], int]]:
    """What the adapter touches or `anew` names, by GGUF name: its other name, its rows, how many stay together."""
    model = read_model(checkpoint)
    stored = weights_of(checkpoint, model, ExportError)
    factors = lora_factors(adapter, model, magnitudes=True)
    expected = {weight.gguf: weight.shape for weight in model.weights()}
    expected |= {vector: (len(numbers),) for vector, numbers in model.vectors.items()}
    compare_tensors(expected, header.tensors, Where(str(base_quant)), ExportError)
    merged: dict[str, tuple[str, Callable[[int, int], Any], int]] = {}
    for weight in model.weights():
        if weight.hf in factors or weight.gguf in anew:
            rows: Callable[[int, int], Any] = CheckpointRows(weight, stored, model.head_dim)
            head_dim = model.head_dim if weight.permuted else 0
            if weight.hf in factors:
                rows = MergedRows(rows, factors[weight.hf], head_dim)
            merged[weight.gguf] = weight.hf, rows, head_dim or 1
    return merged


class MergedRows:
    """Rows of a weight in GGUF's order plus what the adapter adds; `head_dim` is 0 where the adapter has that order."""

    def __init__(self, base: Callable[[int, int], Any], factors: LoraFactors, head_dim: int) -> None:
        self.base = base
        self.factors = factors
        self.head_dim = head_dim

    def __call__(self, start: int, stop: int) -> Any:
        total = self.base(start, stop) + self._ordered(product(self.factors, start, stop))
        if self.factors.magnitude is None:
            return total
        wanted = self._ordered(self.factors.magnitude[start:stop, None]).astype("f8")
        return total * (wanted / lengths(total)).astype("f4")

    def _ordered(self, rows: Any) -> Any:
        return to_gguf_rows(rows, self.head_dim) if self.head_dim else rows


def lengths(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """The Euclidean length of each row, (rows, 1): squares in float64, summed by halves, always in one order."""
    import numpy as np

    squares = np.square(rows, dtype=np.float64)
    while (count := squares.shape[1]) > 1:
        half = (count + 1) // 2
        squares[:, : count - half] += squares[:, half:]
        squares = squares[:, :half]
    length: NDArray[np.float64] = np.sqrt(squares)
    return length


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
