"""Which inputs of each weight matter: an importance matrix, computed from the rows that the adapter was trained on.

It tells the quantiser which columns of a weight to round with care. The file is the one that llama.cpp's llama-imatrix
writes: of each weight the sums of its squared inputs and how many there were (tools/imatrix/README.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlmbuild.data.rows import Row
from dlmbuild.data.shards import distinct_rows
from dlmbuild.errors import ExportError, Where
from dlmbuild.export.quantize import StoredRows
from dlmbuild.inference.numbers import no_numbers
from dlmbuild.io.gguf_file import Header, Planned, create_gguf, read_header, string_entry, strings_entry, u32_entry
from dlmbuild.io.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_TOKENS = 8192
"""After so many no further row is looked at."""
_SUMS, _COUNTS = ".in_sum2", ".counts"


def importance_matrix(
    *, base: Path, adapter: Path, f16: Path, out: Path, progress: Progress, **datasets: Path
) -> dict[str, Any]:
    """Write the importance matrix of base and adapter to the file `out`; returns counts of rows, tokens and weights.

    `f16` is the base's GGUF, whose names and shapes the matrix has. Weights whose inputs are not seen are named as
    "without", by their kind: experts are no layers of their own in transformers. `datasets` are paths of dataset.json
    files. Rows are taken whole, in the order of their digests, until there are 8,192 tokens. Raises SmokeError for
    inputs that are no numbers.
    """
    import torch

    from dlmbuild.inference.generate import load_model

    header = read_header(f16)
    weights = {name: info.shape for name, info in header.tensors.items() if len(info.shape) > 1 and name[:4] == "blk."}
    named = gguf_names(header)
    progress("loading torch, the base and the adapter")
    model = load_model(base, adapter)
    sums: dict[str, Any] = {}

    def watch(name: str) -> Any:
        def add(_: Any, given: tuple[Any, ...]) -> None:
            inputs = given[0].reshape(-1, given[0].shape[-1])
            sums[name] = sums.get(name, 0) + inputs.square().sum(0, dtype=torch.float64)

        return add

    for module_name, module in model.named_modules():
        name = f"{named(module_name.removeprefix('base_model.model.'))}.weight"
        if weights.get(name) == getattr(module, "weight", torch.empty(0)).shape:
            module.register_forward_pre_hook(watch(name))
    rows = list(_rows(datasets.values()))
    tokens = sum(len(row.ids) for row in rows)
    with torch.no_grad():
        for number, row in enumerate(rows):
            progress("measuring which inputs matter", number, len(rows))
            model(torch.tensor([row.ids]), logits_to_keep=1)
    if not all(torch.isfinite(total).all() for total in sums.values()):
        raise no_numbers("the trained model")
    parts: dict[str, Any] = {}
    for name in sorted(sums):
        parts[name + _COUNTS] = torch.tensor([tokens], dtype=torch.float32)
        parts[name + _SUMS] = sums[name].float()
    plan = [Planned(name, "F32", (1, len(numbers))) for name, numbers in parts.items()]
    entries = [
        string_entry("general.type", "imatrix"),
        strings_entry("imatrix.datasets", ["rows of the document"]),
        u32_entry("imatrix.chunk_count", len(rows)),
        u32_entry("imatrix.chunk_size", max(len(row.ids) for row in rows)),
    ]
    with create_gguf(out, entries, plan) as sink:
        for name, numbers in parts.items():
            sink.put(name, [numbers.numpy().astype("<f4").tobytes()])
    without = sorted({name.split(".")[2] for name in weights if name not in sums})
    return {"rows": len(rows), "tokens": tokens, "weights": len(sums), "without": without}


def gguf_names(header: Header) -> Callable[[str], str | None]:
    """What llama.cpp calls a module of transformers, for the architecture of a GGUF."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    kind = header.metadata["general.architecture"]
    (arch,) = (arch for arch, name in MODEL_ARCH_NAMES.items() if name == kind)
    names: Callable[[str], str | None] = get_tensor_name_map(arch, header.metadata[f"{kind}.block_count"]).get_name
    return names


def read_importance(path: Path) -> Mapping[str, NDArray[np.float32]]:
    """The mean squared input of each column of each weight, by GGUF name. Raises ExportError for a malformed file."""
    import numpy as np

    tensors = read_header(path).tensors
    found = {}
    for key in tensors:
        name = key.removesuffix(_SUMS)
        if name != key:
            count = tensors.get(name + _COUNTS)
            if count is None or count.shape != (1, 1) or len(tensors[key].shape) != 2 or tensors[key].shape[0] != 1:
                raise ExportError(f"{key} has no count of its own", where=Where(str(path)), do="build it again")
            mean = StoredRows(path, tensors[key])(0, 1)[0] / StoredRows(path, count)(0, 1)[0, 0]
            if not np.isfinite(mean).all() or (mean < 0).any():
                raise ExportError(f"{key} holds what is no mean", where=Where(str(path)), do="build it again")
            found[name] = np.ascontiguousarray(mean)
    return found


def _rows(datasets: Iterable[Path]) -> Iterator[Row]:
    tokens = 0
    for _, row in sorted(distinct_rows(datasets)):
        if tokens < _TOKENS:
            tokens += len(row.ids)
            yield row
