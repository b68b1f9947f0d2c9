"""A checkpoint as a GGUF in F16, the file that every quantisation of a base is made from.

The tensors and the metadata are those of llama.cpp's convert_hf_to_gguf.py for a Llama with a byte-level BPE tokenizer;
what that script derives from folder names and model cards is left out, so that the bytes depend on the content alone.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from dlmbuild.base_models.llama import ROPE_FACTORS, Llama, compare_tensors, llama_of_config, to_gguf_rows
from dlmbuild.errors import ExportError, Where
from dlmbuild.export.kernels import pack_rows, pack_tensor
from dlmbuild.export.quantize import quantisation_entries
from dlmbuild.export.tensor_types import QUANTISATIONS
from dlmbuild.export.vocabulary import vocabulary_entries
from dlmbuild.io.gguf_file import Planned, create_gguf, f32_entry, string_entry, u32_entry
from dlmbuild.io.json_file import read_json_object
from dlmbuild.io.progress import Progress, silent
from dlmbuild.io.safetensors_file import StoredTensor, read_checkpoint

_BUFFER = ".rotary_emb.inv_freq"
"""Old checkpoints hold this, which is computed from the configuration."""


def convert_base(checkpoint: Path, out: Path, *, name: str, progress: Progress = silent) -> dict[str, Any]:
    """Write the checkpoint folder as F16 GGUF to the file `out`.

    Weights of linear layers and embeddings become F16, norms stay F32. `name` becomes general.name. Returns
    {"tensors": count}. Raises ExportError for another architecture than LlamaForCausalLM, a tokenizer that llama.cpp
    would read otherwise, and weights beyond the range of F16; BaseModelError for an unknown pre-tokenizer.
    """
    model = read_model(checkpoint)
    stored = read_weights(checkpoint, model)
    entries = _model_entries(model, name) + vocabulary_entries(checkpoint, model.vocab)
    entries += quantisation_entries(QUANTISATIONS["F16"].file_type)
    tensors = model.tensors()
    plan = [Planned(one.gguf, "F16" if len(one.shape) == 2 else "F32", one.shape) for one in tensors]
    factors = model.rope_factors()
    if factors is not None:
        plan.insert(0, Planned(ROPE_FACTORS, "F32", (len(factors),)))
    total = sum(planned.nbytes for planned in plan)
    done = 0
    with (
        create_gguf(out, entries, plan) as sink,
        ThreadPoolExecutor(1) as pool,
    ):
        if factors is not None:
            sink.put(ROPE_FACTORS, [_floats(factors)])
        for tensor in tensors:
            progress("converting to F16", done, total)
            source = stored[tensor.hf]
            if len(tensor.shape) == 1:
                pieces = iter([pack_rows(tensor.hf, source.rows(), "F32")])
                done += 4 * tensor.shape[0]
            else:
                step = model.head_dim if tensor.permuted else 1
                rows = CheckpointRows(source, step if tensor.permuted else 0)
                pieces = pack_tensor(tensor.hf, tensor.shape, "F16", rows, pool, 1, step)
                done += 2 * tensor.shape[0] * tensor.shape[1]
            sink.put(tensor.gguf, pieces)
    progress("converting to F16", total, total)
    return {"tensors": len(plan)}


def read_model(checkpoint: Path) -> Llama:
    """The measures of a checkpoint folder."""
    path = checkpoint / "config.json"
    return llama_of_config(read_json_object(path, ExportError), Where(str(path)), ExportError)


def read_weights(checkpoint: Path, model: Llama) -> dict[str, StoredTensor]:
    """The weights of a checkpoint folder by name, exactly those that `model` has."""
    stored = read_checkpoint(checkpoint, ExportError)
    stored = {name: tensor for name, tensor in stored.items() if not name.endswith(_BUFFER)}
    expected = {tensor.hf: tensor.shape for tensor in model.tensors()}
    if model.tied and "lm_head.weight" in stored:
        raise ExportError(
            "the checkpoint holds lm_head.weight",
            where=Where(str(checkpoint)),
            why="its configuration says that the output layer is the token embedding (tie_word_embeddings)",
            do="remove one of the two",
        )
    compare_tensors(expected, stored, Where(str(checkpoint)), ExportError)
    return stored


class CheckpointRows:
    """Rows of a weight in GGUF's order; `head_dim` is 0 for weights whose order is the same."""

    def __init__(self, stored: StoredTensor, head_dim: int) -> None:
        self.stored = stored
        self.head_dim = head_dim

    def __call__(self, start: int, stop: int) -> Any:
        rows = self.stored.rows(start, stop)
        return to_gguf_rows(rows, self.head_dim) if self.head_dim else rows


def _model_entries(model: Llama, name: str) -> list[bytes]:
    entries = [
        string_entry("general.architecture", "llama"),
        string_entry("general.type", "model"),
        string_entry("general.name", name),
        u32_entry("llama.block_count", model.layers),
        u32_entry("llama.context_length", model.context),
        u32_entry("llama.embedding_length", model.hidden),
        u32_entry("llama.feed_forward_length", model.feed_forward),
        u32_entry("llama.attention.head_count", model.heads),
        u32_entry("llama.attention.head_count_kv", model.kv_heads),
        f32_entry("llama.rope.freq_base", model.rope_theta),
        f32_entry("llama.attention.layer_norm_rms_epsilon", model.rms_eps),
    ]
    if model.explicit_head_dim:
        entries.append(u32_entry("llama.attention.key_length", model.head_dim))
        entries.append(u32_entry("llama.attention.value_length", model.head_dim))
    return [
        *entries,
        u32_entry("llama.vocab_size", model.vocab),
        u32_entry("llama.rope.dimension_count", model.head_dim),
    ]


def _floats(values: list[float]) -> bytes:
    import numpy as np

    return np.array(values, dtype="<f4").tobytes()
