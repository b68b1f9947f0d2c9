"""A checkpoint as a GGUF in F16, the file that every quantisation of a base is made from.

The tensors and the metadata are those of llama.cpp's convert_hf_to_gguf.py; what that script derives from folder names
and model cards is left out, so that the bytes depend on the content alone.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from dlmbuild.base_models.convertible import weights_of
from dlmbuild.base_models.decoder import Decoder, Weight, to_gguf_rows
from dlmbuild.base_models.families import decoder_of_config
from dlmbuild.errors import ExportError, Where
from dlmbuild.export.kernels import pack_rows, pack_tensor
from dlmbuild.export.quantize import quantisation_entries
from dlmbuild.export.tensor_types import QUANTISATIONS
from dlmbuild.export.vocabulary import vocabulary_entries
from dlmbuild.io.gguf_file import Planned, entry, write_gguf
from dlmbuild.io.json_file import read_json_object
from dlmbuild.io.progress import Progress
from dlmbuild.io.safetensors_file import StoredTensor


def write_base(checkpoint: Path, out: Path, described: list[bytes], pre: str, progress: Progress) -> int:
    """Write a checkpoint of a family that is known: see `conversion.convert_base`. Returns how many tensors there are.

    `described` are the entries that say what model it is.
    """
    model = read_model(checkpoint)
    stored = weights_of(checkpoint, model, ExportError)
    entries = _model_entries(model, described) + vocabulary_entries(checkpoint, model.vocab, pre)
    entries += quantisation_entries(QUANTISATIONS["F16"].file_type)
    weights = {weight.gguf: weight for weight in model.weights()}
    plan = [Planned(vector, "F32", (len(numbers),)) for vector, numbers in sorted(model.vectors.items())]
    plan += [Planned(name, "F16" if one.f16 else "F32", one.shape) for name, one in weights.items()]

    def data(planned: Planned) -> Iterable[bytes]:
        if planned.name in model.vectors:
            return [struct.pack(f"<{planned.shape[0]}f", *model.vectors[planned.name])]
        weight = weights[planned.name]
        rows = CheckpointRows(weight, stored, model.head_dim)
        if len(weight.shape) == 1:
            return [pack_rows(weight.hf, rows(0, weight.shape[0]), "F32")]
        step = model.head_dim if weight.permuted else 1
        return pack_tensor(weight.hf, weight.shape, planned.type, rows, pool, 1, step)

    with ThreadPoolExecutor(1) as pool:
        write_gguf(out, entries, plan, data, partial(progress, "converting to F16"))
    return len(plan)


def read_model(checkpoint: Path) -> Decoder:
    """The measures of a checkpoint folder."""
    path = checkpoint / "config.json"
    return decoder_of_config(read_json_object(path, ExportError), Where(str(path)), ExportError)


class CheckpointRows:
    """Rows of a weight as a GGUF has them, in float32; those of all experts count through."""

    def __init__(self, weight: Weight, stored: dict[str, StoredTensor], head_dim: int) -> None:
        self.sources = [stored[name] for name in weight.sources]
        self.height = weight.source_shape[0]
        self.weight = weight
        self.head_dim = head_dim

    def __call__(self, start: int, stop: int) -> Any:
        import numpy as np

        pieces = []
        for number in range(start // self.height, -(-stop // self.height)):
            first = number * self.height
            pieces.append(self.sources[number].rows(max(start - first, 0), min(stop - first, self.height)))
        rows = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        if self.weight.shift:
            rows = rows + np.float32(self.weight.shift)
        return to_gguf_rows(rows, self.head_dim) if self.weight.permuted else rows


def _model_entries(model: Decoder, described: list[bytes]) -> list[bytes]:
    architecture = model.family.gguf
    measures: dict[str, Any] = {
        "block_count": model.layers,
        "context_length": model.context,
        "embedding_length": model.hidden,
        "feed_forward_length": model.feed_forward,
        "attention.head_count": model.heads,
        "attention.head_count_kv": model.kv_heads,
        "rope.freq_base": model.rope_theta,
        "attention.layer_norm_rms_epsilon": model.rms_eps,
    }
    if model.explicit_head_dim:
        measures |= {"attention.key_length": model.head_dim, "attention.value_length": model.head_dim}
    return [
        entry("general.architecture", architecture),
        entry("general.type", "model"),
        *described,
        *(entry(f"{architecture}.{key}", value) for key, value in {**measures, **model.metadata}.items()),
    ]
