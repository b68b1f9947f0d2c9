"""A PEFT LoRA adapter as llama.cpp loads it beside a base.

llama.cpp scales every pair by adapter.lora.alpha / rank, one alpha for all. What PEFT does besides (rank-stabilised
LoRA, alpha_pattern, rank_pattern) is folded into B, which the official converter leaves out. What cannot be expressed
is refused, never dropped. Sources: LoraConfig and `LoraModel._create_and_replace` of peft; llama.cpp's
src/llama-adapter.cpp and convert_lora_to_gguf.py.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dlmbuild.base_models.decoder import Decoder, to_gguf_rows
from dlmbuild.errors import ExportError, Where
from dlmbuild.export.base_gguf import read_model
from dlmbuild.io.gguf_file import Planned, entry, write_gguf
from dlmbuild.io.json_file import read_json_object
from dlmbuild.io.progress import Progress
from dlmbuild.io.safetensors_file import StoredTensor, read_safetensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
RUN = "training_run.json"

_KEY = re.compile(r"base_model\.model\.(.+)\.lora_(?:([AB])\.weight|magnitude_vector)")
_PLAIN_STARTS = (True, False, "gaussian", "eva", "orthogonal", None)
"""Values of init_lora_weights that leave the base's weights alone; PiSSA, OLoRA and others change them."""
_ABSENT = {
    "lora_bias": "llama.cpp's LoRA has no biases",
    "modules_to_save": "whole modules were trained, which a LoRA GGUF cannot hold",
    "trainable_token_indices": "rows of the embedding were trained, which a LoRA GGUF cannot hold",
    "target_parameters": "parameters outside linear layers were adapted",
    "fan_in_fan_out": "the layers it adapts are stored transposed, which this base's are not",
    "layer_replication": "the layers of the base were repeated",
    "alora_invocation_tokens": "the adapter is active after certain tokens only",
    "use_qalora": "QALoRA pools its inputs",
    "use_bdlora": "block-diagonal LoRA has other shapes",
    "arrow_config": "the adapter is a router over others",
    "kasa_config": "KaSA changes the base's weights",
    "monteclora_config": "the adapter is drawn at random",
    "velora_config": "VeLoRA is not plain LoRA",
}


class LoraFactors(NamedTuple):
    """What an adapter adds to one weight: scale · b @ a. With a magnitude every row of the sum then gets that length.

    The second is DoRA (Liu et al. 2024, arXiv 2402.09353).
    """

    a: NDArray[np.float32]
    """(rank, inputs)"""
    b: NDArray[np.float32]
    """(outputs, rank)"""
    scale: float
    magnitude: NDArray[np.float32] | None = None
    """(outputs,)"""


class LoraPair(NamedTuple):
    """The tensors of an adapter that change one module."""

    a: StoredTensor
    b: StoredTensor
    magnitude: StoredTensor | None


class Adaptable(NamedTuple):
    """A module that an adapter names."""

    shape: tuple[int, ...]
    """Of its weight."""
    linear: bool
    """Whether it is a linear layer inside a block."""


def base_of(adapter: Path) -> dict[str, Any]:
    """Identity of the base that an adapter's version folder was trained on. Raises ExportError where it says none."""
    path = adapter / RUN
    base = read_json_object(path, ExportError).get("base")
    if not isinstance(base, dict) or not isinstance(base.get("files"), dict):
        raise ExportError("the adapter does not say on which base it was trained", where=Where(str(path)))
    return base


def require_base(adapter: Path, files: Mapping[str, str]) -> None:
    """Refuse an adapter's version folder that was not trained on the base with these `files` (name → SHA-256).

    Shapes alone tell models of one family apart from nothing. Raises ExportError, also for a folder that does not say.
    """
    base = base_of(adapter)
    if base["files"] != files:
        named, held = base["files"], dict(files)
        other = min(name for name in named.keys() | held.keys() if named.get(name) != held.get(name))
        raise ExportError(
            f"the adapter was trained on another base: {base.get('name')}, revision {base.get('revision')}",
            where=Where(str(adapter / RUN)),
            why=f"its {other} is not that of the base here, on which the adapter would answer nonsense",
            do="train it on this base",
        )


def write_lora(adapter: Path, checkpoint: Path, out: Path, general: list[bytes], progress: Progress) -> int:
    """Write an adapter of a family that is known: see `conversion.convert_adapter`. Returns how many tensors there are.

    `general` are the entries that say what adapter it is.
    """
    import numpy as np

    model = read_model(checkpoint)
    factors = lora_factors(adapter, model)
    alpha = float(read_json_object(adapter / CONFIG, ExportError)["lora_alpha"])
    pairs = {weight.gguf: (weight, factors[weight.hf]) for weight in model.weights() if weight.hf in factors}
    plan = [
        Planned(f"{name}.lora_{half}", "F32", factor.shape)
        for name, (_, pair) in pairs.items()
        for half, factor in (("a", pair.a), ("b", pair.b))
    ]
    entries = [
        entry("general.architecture", model.family.gguf),
        entry("general.type", "adapter"),
        *general,
        entry("adapter.type", "lora"),
        entry("adapter.lora.alpha", alpha),
        entry("general.quantization_version", 2),
    ]

    def data(planned: Planned) -> Iterable[bytes]:
        weight, pair = pairs[planned.name[: -len(".lora_a")]]
        if planned.name.endswith("a"):
            return [pair.a.astype("<f4").tobytes()]
        b = pair.b * np.float32(pair.scale * pair.a.shape[0] / alpha)
        return [(to_gguf_rows(b, model.head_dim) if weight.permuted else b).astype("<f4").tobytes()]

    write_gguf(out, entries, plan, data, partial(progress, "converting the adapter"))
    return len(plan)


def lora_factors(adapter: Path, model: Decoder, *, magnitudes: bool = False) -> dict[str, LoraFactors]:
    """What the PEFT folder `adapter` adds to which weight of `model`: see `read_factors`."""
    weights = {weight.hf.removesuffix(".weight"): Adaptable(weight.shape, weight.linear) for weight in model.weights()}
    return read_factors(adapter, weights, magnitudes=magnitudes)


def read_factors(
    adapter: Path, adaptable: Mapping[str, Adaptable] | None, *, magnitudes: bool = False
) -> dict[str, LoraFactors]:
    """What the PEFT folder `adapter` adds to which weight, by the weight's Hugging Face name.

    `adaptable` has the base's modules by name, or is None where the base is not at hand; `magnitudes` says that the
    caller heeds them, without it DoRA is refused. The arrays may be views of the file. Raises ExportError for an
    adapter that is damaged, of another base, or more than llama.cpp's LoRA can express.
    """
    path = adapter / CONFIG
    config = read_json_object(path, ExportError)
    _check_plain(config, Where(str(path)))
    if config.get("use_dora") and not magnitudes:
        why = "DoRA scales whole rows of the weight, which a LoRA GGUF cannot express"
        do = "export the merged model, or train with training.adapter: lora"
        raise ExportError("the adapter was trained with use_dora", where=Where(str(path)), why=why, do=do)
    stored = read_safetensors(adapter / WEIGHTS, ExportError)
    where = Where(str(adapter / WEIGHTS))
    pairs = adapted(stored, config, where, adaptable)
    return {f"{module}.weight": _factors(module, pair, config, where) for module, pair in pairs.items()}


def adapted(
    stored: Mapping[str, StoredTensor],
    config: Mapping[str, Any],
    where: Where,
    adaptable: Mapping[str, Adaptable] | None = None,
) -> dict[str, LoraPair]:
    """The tensors of an adapter by the module that they change.

    Raises ExportError for those that are not as `config` says, or do not suit the base's modules, if they are given.
    """
    found: dict[str, dict[str, StoredTensor]] = {}
    for key, tensor in stored.items():
        match = _KEY.fullmatch(key)
        if match is None:
            raise ExportError(
                f"the tensor {key!r}",
                where=where,
                why="only pairs of lora_A and lora_B can be exported",
                do="train without what this tensor belongs to",
            )
        found.setdefault(match[1], {})[match[2] or "magnitude"] = tensor
    if not found:
        raise ExportError("the adapter is empty", where=where, do="train it")
    pairs = {}
    for module in sorted(found):
        shape = None if adaptable is None else _suited(module, adaptable, where).shape
        pairs[module] = _pair(module, found[module], shape, config, where)
    return pairs


def _suited(module: str, adaptable: Mapping[str, Adaptable], where: Where) -> Adaptable:
    weight = adaptable.get(module)
    if weight is None:
        raise ExportError(
            f"the adapter changes {module!r}",
            where=where,
            why="the base has no such module: the adapter belongs to another base",
        )
    if not weight.linear:
        raise ExportError(
            f"the adapter changes {module!r}",
            where=where,
            why="llama.cpp cannot apply LoRA to embeddings and the output layer of this base",
            do="train adapters for the linear layers inside the blocks only (target_modules='all-linear')",
        )
    return weight


def _check_plain(config: dict[str, Any], where: Where) -> None:
    if config.get("peft_type") != "LORA":
        raise ExportError(f"the adapter is of the kind {config.get('peft_type')!r}", where=where, why="only LORA works")
    for key, why in _ABSENT.items():
        if config.get(key):
            raise ExportError(f"the adapter was trained with {key}", where=where, why=why, do=f"train without {key}")
    if config.get("bias", "none") != "none":
        raise ExportError(
            f"bias is {config['bias']!r}", where=where, why="biases were trained", do="train without bias"
        )
    start = config.get("init_lora_weights", True)
    if not any(start is plain or start == plain for plain in _PLAIN_STARTS):
        raise ExportError(
            f"init_lora_weights is {start!r}",
            where=where,
            why="this start changes the weights of the base, so that the adapter fits no untouched base",
            do="train with init_lora_weights true",
        )
    alpha = config.get("lora_alpha")
    if type(alpha) not in (int, float) or not 0 < alpha < 1e30:  # type: ignore[operator]
        raise ExportError(f"lora_alpha is {alpha!r}", where=where, why="a number above 0 is needed")
    for key in ("alpha_pattern", "rank_pattern"):
        pattern = config.get(key) or {}
        if not isinstance(pattern, dict) or not all(
            type(value) in (int, float) and 0 < value < 1e30 for value in pattern.values()
        ):
            raise ExportError(f"{key} is {pattern!r}", where=where, why="module names with numbers above 0 are needed")


def _pair(
    module: str,
    found: dict[str, StoredTensor],
    shape: tuple[int, ...] | None,
    config: Mapping[str, Any],
    where: Where,
) -> LoraPair:
    a, b, magnitude = (found.get(part) for part in ("A", "B", "magnitude"))
    if a is None or b is None:
        raise ExportError(f"half of the pair for {module!r} is missing", where=where, do="train it again")
    rank = a.shape[0]
    rows, columns = b.shape[0], a.shape[-1]
    why = f"the weight has the shape {shape}: the adapter belongs to another base" if shape else "they do not multiply"
    if (a.shape, b.shape) != ((rank, columns), (rows, rank)) or (shape and shape != (rows, columns)):
        raise ExportError(f"the pair for {module!r} has the shapes {a.shape} and {b.shape}", where=where, why=why)
    if bool(config.get("use_dora")) != (magnitude is not None):
        named = "no" if magnitude is None else "a"
        says = f"{CONFIG} says use_dora: {json.dumps(bool(config.get('use_dora')))}"
        raise ExportError(f"there is {named} magnitude vector for {module!r}", where=where, why=says)
    if magnitude is not None and magnitude.shape != (rows,):
        raise ExportError(f"the magnitudes for {module!r} have the shape {magnitude.shape}", where=where, why=why)
    wanted = _patterned(config, "rank_pattern", module, config.get("r"), where)
    if wanted != rank:
        raise ExportError(f"the rank of {module!r} is {rank}", where=where, why=f"{CONFIG} says {wanted}")
    return LoraPair(a, b, magnitude)


def _factors(module: str, pair: LoraPair, config: Mapping[str, Any], where: Where) -> LoraFactors:
    a, b, magnitude = pair
    rank = a.shape[0]
    alpha = _patterned(config, "alpha_pattern", module, config["lora_alpha"], where)
    scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    return LoraFactors(a.rows(), b.rows(), scale, magnitude.rows().reshape(-1) if magnitude else None)


def _patterned(config: Mapping[str, Any], key: str, module: str, default: Any, where: Where) -> Any:
    """The value for one module, found as peft finds it: the first pattern that is the end of the module's name."""
    for pattern, value in (config.get(key) or {}).items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error as problem:
            raise ExportError(f"{key} has the pattern {pattern!r}", where=where, why=str(problem)) from None
    return default
