"""Which inputs of each weight matter: an importance matrix, computed from the rows that the adapter was trained on.

It tells the quantiser which columns of a weight to round with care. The file is the one that llama.cpp's llama-imatrix
writes: of each weight the sums of its squared inputs and how many there were, for each expert apart
(tools/imatrix/README.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlmbuild.base_models.dequantize import read_rows
from dlmbuild.data.rows import Row
from dlmbuild.data.shards import distinct_rows
from dlmbuild.errors import ExportError, Where
from dlmbuild.inference.numbers import no_numbers
from dlmbuild.io.gguf_file import Header, Planned, entry, read_header, write_gguf
from dlmbuild.io.progress import Progress
from dlmbuild.train.packing import Packed, Packing

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
    "without", by their kind; of the "experts" of all layers, "unseen" ones are chosen for no token. `datasets` are
    paths of dataset.json files. Rows are taken whole, in the order of their digests, until there are 8,192 tokens, and
    packed as in training: what they begin with alike counts once. Raises SmokeError for inputs that are no numbers.
    """
    import torch

    from dlmbuild.inference.generate import load_model

    header = read_header(f16)
    weights = {name: info.shape for name, info in header.tensors.items() if len(info.shape) > 1 and name[:4] == "blk."}
    named = gguf_names(header)
    progress("loading torch, the base and the adapter")
    model = load_model(base, adapter)
    packing = Packing(model)  # which tries the model: nothing is watched yet
    watched = {name: _Inputs(shape) for name, shape in weights.items()}
    for module_name, module in model.named_modules():
        path = module_name.removeprefix("base_model.model.")
        if are_experts(module):
            shapes = _shapes_of_experts(*module.gate_up_proj.shape)
            names = {part: f"{named(f'{path}.{part}')}.weight" for part in shapes}
            _watch_experts(
                module, {part: watched[name] for part, name in names.items() if weights.get(name) == shapes[part]}
            )
        elif weights.get(name := f"{named(path)}.weight") == getattr(module, "weight", torch.empty(0)).shape:
            module.register_forward_pre_hook(watched[name].hook)
    rows = list(_rows(datasets.values()))
    tokens: list[int] = []
    done = 0
    with torch.no_grad():
        for group in packing.groups(rows):
            progress("measuring which inputs matter", done, len(rows))
            packed = Packed.of([rows[at].ids for at in group])
            model(**packing.inputs(packed), logits_to_keep=1)
            done += len(group)
            tokens.append(len(packed.ids))
    seen = {name: inputs for name, inputs in sorted(watched.items()) if inputs.counts.any()}
    if not all(torch.isfinite(inputs.squares).all() for inputs in seen.values()):
        raise no_numbers("the trained model")
    parts: dict[str, Any] = {}
    for name, inputs in seen.items():
        parts[name + _COUNTS] = inputs.counts[:, None]
        parts[name + _SUMS] = inputs.squares.float()
    plan = [Planned(name, "F32", tuple(numbers.shape)) for name, numbers in parts.items()]
    entries = [
        entry("general.type", "imatrix"),
        entry("imatrix.datasets", ["rows of the document"]),
        entry("imatrix.chunk_count", len(tokens)),
        entry("imatrix.chunk_size", max(tokens)),
    ]
    write_gguf(out, entries, plan, lambda planned: [parts[planned.name].numpy().astype("<f4").tobytes()])
    experts = {name.split(".")[1]: inputs.counts for name, inputs in seen.items() if len(inputs.counts) > 1}
    return {
        "rows": len(rows),
        "tokens": sum(tokens),
        "weights": len(seen),
        "without": sorted({name.split(".")[2] for name in weights if name not in seen}),
        "experts": sum(len(counts) for counts in experts.values()),
        "unseen": sum(int((counts == 0).sum()) for counts in experts.values()),
    }


class _Inputs:
    """The sums of the squared inputs of a weight and how many there were, for each expert apart."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        import torch

        self.squares = torch.zeros(math.prod(shape[:-2]), shape[-1], dtype=torch.float64)
        self.counts = torch.zeros(len(self.squares))

    def add(self, inputs: Any, expert: int = 0) -> None:
        self.squares[expert] += inputs.square().sum(0)
        self.counts[expert] += len(inputs)

    def hook(self, _: Any, given: tuple[Any, ...]) -> None:
        self.add(given[0].reshape(-1, given[0].shape[-1]))


def are_experts(module: Any) -> bool:
    """Whether a module holds the weights of all experts of a layer as most models of transformers do.

    Source: `use_experts_implementation` in transformers' integrations/moe.py.
    """
    return (
        hasattr(module, "_apply_gate")
        and hasattr(module, "gate_up_proj")
        and not getattr(module, "is_transposed", True)
        and not getattr(module, "has_bias", True)
    )


def inputs_of_experts(module: Any, hidden: Any, chosen: Any) -> Iterator[tuple[int, Any, Any]]:
    """Each expert that a token is `chosen` for, the inputs of its first two layers, and those of its last."""
    import torch

    hidden = hidden.reshape(-1, hidden.shape[-1])
    for expert, weight in enumerate(module.gate_up_proj):
        given = hidden[(chosen.reshape(len(hidden), -1) == expert).any(-1)]
        if len(given):
            yield expert, given, module._apply_gate(torch.nn.functional.linear(given, weight))


def _watch_experts(module: Any, watched: Mapping[str, _Inputs]) -> None:
    def hook(_: Any, given: tuple[Any, ...]) -> None:
        for expert, first, last in inputs_of_experts(module, *given[:2]):
            for part, inputs in watched.items():
                inputs.add(last if part == "down_proj" else first, expert)

    module.register_forward_pre_hook(hook)


def _shapes_of_experts(experts: int, both: int, hidden: int) -> dict[str, tuple[int, ...]]:
    """What a GGUF may hold of experts, by the names that llama.cpp has for the layers of one in transformers."""
    one = (experts, both // 2, hidden)
    whole = (experts, both, hidden)
    return {"gate_proj": one, "up_proj": one, "gate_up_proj": whole, "down_proj": (experts, hidden, both // 2)}


def gguf_names(header: Header) -> Callable[[str], str | None]:
    """What llama.cpp calls a module of transformers, for the architecture of a GGUF."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    kind = header.metadata["general.architecture"]
    (arch,) = (arch for arch, name in MODEL_ARCH_NAMES.items() if name == kind)
    names: Callable[[str], str | None] = get_tensor_name_map(arch, header.metadata[f"{kind}.block_count"]).get_name
    return names


def read_importance(path: Path) -> Mapping[str, NDArray[np.float32]]:
    """How much each column of each weight matters, by GGUF name: (experts, columns), where 1 is without experts.

    That is its mean squared input. Of an expert without any, all columns matter alike, as llama-quantize has it. Raises
    ExportError for a malformed file.
    """
    import numpy as np

    tensors = read_header(path).tensors
    found = {}
    for key, info in tensors.items():
        name = key.removesuffix(_SUMS)
        if name != key:
            held = tensors.get(name + _COUNTS)
            if held is None or len(info.shape) != 2 or held.shape != (info.shape[0], 1):
                raise ExportError(f"{key} has no count of its own", where=Where(str(path)), do="build it again")
            sums, counts = (read_rows(path, tensor, 0, info.shape[0]) for tensor in (info, held))
            mean = np.where(counts > 0, sums / np.maximum(counts, 1), np.float32(1))
            if not (np.isfinite(mean).all() and (mean >= 0).all() and (counts >= 0).all()):
                raise ExportError(f"{key} holds what is no mean", where=Where(str(path)), do="build it again")
            found[name] = mean
    return found


def _rows(datasets: Iterable[Path]) -> Iterator[Row]:
    tokens = 0
    for _, row in sorted(distinct_rows(datasets)):
        if tokens < _TOKENS:
            tokens += len(row.ids)
            yield row
