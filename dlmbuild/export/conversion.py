"""Bases and adapters as GGUF files, by our own tables or, for other architectures, by llama.cpp's scripts.

What the scripts write is written once more: without what they derive from the names of folders, and in the order that
the quantiser wants, so that equal inputs give equal bytes. They scale a whole adapter by one alpha and rank; every pair
is brought to those before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dlmbuild.base_models import official
from dlmbuild.base_models.convertible import is_known
from dlmbuild.base_models.decoder import block_order
from dlmbuild.base_models.dequantize import read_rows
from dlmbuild.errors import ExportError
from dlmbuild.export.adapter_gguf import (
    CONFIG,
    WEIGHTS,
    Adaptable,
    LoraFactors,
    read_factors,
    require_base,
    write_lora,
)
from dlmbuild.export.base_gguf import write_base
from dlmbuild.export.lineage import general_entries
from dlmbuild.export.quantize import copy_tensor, quantisation_entries
from dlmbuild.export.tensor_types import QUANTISATIONS
from dlmbuild.export.vocabulary import general_name
from dlmbuild.io.atomic import staging_folder
from dlmbuild.io.digest import readable_json
from dlmbuild.io.gguf_file import Planned, entry, read_header, write_gguf
from dlmbuild.io.json_file import read_json_object
from dlmbuild.io.progress import Progress, silent
from dlmbuild.io.safetensors_file import read_checkpoint, write_arrays

_NO_KEYS: Mapping[str, str | int] = MappingProxyType({})


def convert_base(
    checkpoint: Path,
    out: Path,
    *,
    name: str,
    general: Mapping[str, str | int] = _NO_KEYS,
    pre: str = "",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write the checkpoint folder as F16 GGUF to the file `out`.

    Weights of linear layers and embeddings become F16, norms stay F32. `name` becomes general.name, `general` is what
    else `lineage.general` says, `pre` the name of the pre-tokenizer if it is known already. Returns {"tensors": count}.
    Raises ExportError for a model that is not as its configuration says, a tokenizer that llama.cpp would read
    otherwise, and weights beyond the range of F16; BaseModelError for an unknown pre-tokenizer.
    """
    described = [entry("general.name", general_name(checkpoint, name)), *general_entries(general)]
    if is_known(checkpoint):
        return {"tensors": write_base(checkpoint, out, described, pre, progress)}
    progress("converting to F16 with llama.cpp's converter")
    with staging_folder(out.parent) as staging:
        made = staging / "base.gguf"
        words = ("--outtype", "f16", "--outfile", str(made), str(checkpoint))
        official.run("convert_hf_to_gguf.py", *words, progress=progress, pre=pre, error=ExportError)
        return {"tensors": _rewrite(made, out, [entry("general.type", "model"), *described])}


def convert_adapter(
    adapter: Path,
    checkpoint: Path,
    out: Path,
    *,
    base: Mapping[str, str] | None = None,
    general: Mapping[str, str | int] = _NO_KEYS,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write the PEFT folder `adapter` as LoRA GGUF in F32 to the file `out`; `general` is what it says of itself.

    With `base`, the digests of the checkpoint's files, one that was not trained on it is refused. Returns {"tensors":
    count}. Raises ExportError as `read_factors` does.
    """
    if base is not None:
        require_base(adapter, base)
    entries = general_entries(general)
    if is_known(checkpoint):
        return {"tensors": write_lora(adapter, checkpoint, out, entries, progress)}
    progress("converting the adapter with llama.cpp's converter")
    factors = read_factors(adapter, adaptable(checkpoint))
    alpha = float(read_json_object(adapter / CONFIG, ExportError)["lora_alpha"])
    entries.insert(0, entry("general.type", "adapter"))
    return {"tensors": _convert(factors, alpha, checkpoint, out, entries, progress)}


def _convert(
    factors: dict[str, LoraFactors], alpha: float, checkpoint: Path, out: Path, general: list[bytes], progress: Progress
) -> int:
    with staging_folder(out.parent) as staging:
        plain = staging / "adapter"
        plain.mkdir()
        write_plain(plain, factors, alpha)
        made = staging / "adapter.gguf"
        words = ("--base", str(checkpoint), "--outtype", "f32", "--outfile", str(made), str(plain))
        official.run("convert_lora_to_gguf.py", *words, progress=progress, error=ExportError)
        return _rewrite(made, out, general)


def merge_sources(
    adapter: Path, checkpoint: Path, f16: Path, anew: Collection[str], scratch: Path, progress: Progress
) -> tuple[dict[str, Callable[[int, int], Any]], dict[str, LoraFactors]]:
    """For an architecture that we have no table of: rows of the F16 base, and what the adapter adds, by GGUF name.

    Rows also of the weights in `anew`. `scratch` is a folder that outlives what is returned.
    """
    read = read_factors(adapter, adaptable(checkpoint), magnitudes=True)
    progress("converting the adapter with llama.cpp's converter")
    alpha = float(read_json_object(adapter / CONFIG, ExportError)["lora_alpha"])
    factors = _converted(read, alpha, checkpoint, scratch / "adapter.gguf", progress)
    lengths = {
        weight: LoraFactors(pair.a[:1], pair.magnitude[:, None], 1.0)
        for weight, pair in read.items()
        if pair.magnitude is not None
    }
    if lengths:  # as pairs of rank 1: only the converter knows the order of rows and the names in a GGUF
        for name, pair in _converted(lengths, 1.0, checkpoint, scratch / "lengths.gguf", progress).items():
            factors[name] = factors[name]._replace(magnitude=pair.b[:, 0])
    header = read_header(f16)
    for name, pair in factors.items():
        if name not in header.tensors or header.tensors[name].shape != (pair.b.shape[0], pair.a.shape[1]):
            raise ExportError(
                f"the adapter changes {name} in a way that cannot be merged", do="export it beside the base"
            )
    return {name: partial(read_rows, f16, header.tensors[name]) for name in {*factors, *anew}}, factors


def _converted(
    factors: dict[str, LoraFactors], alpha: float, checkpoint: Path, lora: Path, progress: Progress
) -> dict[str, LoraFactors]:
    """The same pairs by GGUF name, with rows in GGUF's order; `lora` is the file that the converter is to write."""
    _convert(factors, alpha, checkpoint, lora, [entry("general.type", "adapter")], progress)
    held, found = read_header(lora).tensors, {}
    for key, a in held.items():
        name = key.removesuffix(".lora_a")
        if name != key:
            b = held[f"{name}.lora_b"]
            pair = read_rows(lora, a, 0, a.shape[0]), read_rows(lora, b, 0, b.shape[0])
            found[name] = LoraFactors(*pair, alpha / a.shape[0])
    return found


def adaptable(checkpoint: Path) -> dict[str, Adaptable]:
    """The modules that an adapter may change, taken from the names of the weights: those inside numbered blocks."""
    return {
        name.removesuffix(".weight"): Adaptable(tensor.shape, any(part.isdigit() for part in name.split(".")))
        for name, tensor in read_checkpoint(checkpoint, ExportError).items()
        if name.endswith(".weight")
    }


def write_plain(
    folder: Path, factors: Mapping[str, LoraFactors], alpha: float, config: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Write an adapter as a PEFT folder in which every pair has the same rank and is scaled by alpha / rank.

    Smaller ranks are filled up with zeros. `config` is what else PEFT's configuration says.
    """
    import numpy as np

    arrays = {}
    rank = max(pair.a.shape[0] for pair in factors.values())
    for weight, pair in factors.items():
        key = f"base_model.model.{weight.removesuffix('.weight')}"
        missing = (0, rank - pair.a.shape[0])
        b = pair.b * np.float32(pair.scale * rank / alpha)
        arrays[f"{key}.lora_A.weight"] = np.pad(pair.a, (missing, (0, 0)))
        arrays[f"{key}.lora_B.weight"] = np.pad(b, ((0, 0), missing))
    write_arrays(folder / WEIGHTS, arrays)
    plain = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "use_rslora": False}
    plain |= {"rank_pattern": {}, "alpha_pattern": {}}
    (folder / CONFIG).write_bytes(readable_json({"base_model_name_or_path": "base", **config, **plain}))


def _rewrite(made: Path, out: Path, general: list[bytes]) -> int:
    """Write `made` to `out` with these general entries only; returns how many tensors there are."""
    header = read_header(made)
    kept = [held for key, held in header.entries.items() if not key.startswith("general.")]
    architecture = header.entries["general.architecture"]
    entries = [architecture, *general, *kept, *quantisation_entries(QUANTISATIONS["F16"].file_type)]
    order = sorted(header.tensors, key=block_order)
    plan = [Planned(name, header.tensors[name].type, header.tensors[name].shape) for name in order]
    write_gguf(out, entries, plan, lambda planned: copy_tensor(made, header.tensors[planned.name]))
    return len(plan)
