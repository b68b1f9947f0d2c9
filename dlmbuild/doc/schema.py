"""The keys of the frontmatter and what each may hold, over all versions of the format.

Types are strict: text is never a number and `true` is never 1; a whole number may stand where a number is asked.
"auto" is resolved per base from a measured recipe, see dlmbuild.train.plan.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

from dlmbuild.doc.block import Path
from dlmbuild.doc.ignore import MAX_PATTERNS
from dlmbuild.doc.mistakes import nearest
from dlmbuild.doc.names import WEIGHED, Quantisation
from dlmbuild.doc.routing import NO_MIX_OF_DORA
from dlmbuild.doc.versions import NEWEST_VERSION, TO_HAVE_IT, VALUES_SINCE
from dlmbuild.io.ulid import is_ulid

MAX_SEQUENCE_LEN = 32768
"""Tokens of the longest row that can be asked for."""

UNBUILT_BLOCKS = {
    "training.audio": "sound",
}
"""Key of the format → what this version does not build yet.

Below such a key only its default may be written, which changes nothing; whatever asks for more is refused.
Whoever builds it deletes the row: its values are then part of what a document says.
"""
_GALORE = (
    "GaLore projects the gradients of whole weights, and those of an adapter's factors are that small already; its "
    "state could be read back only by unpickling"
)
_NO_GALORE = (_GALORE, "write adamw_torch, or adamw_bnb_8bit for a smaller state")
REFUSED_VALUES = {"training.optimizer": {"galore_adamw": _NO_GALORE, "galore_adamw_8bit": _NO_GALORE}}
"""Values of the format that no training of an adapter has a use for → why, and what to do."""
REFUSED_KEYS = {
    "training.cpt.embed_warmup_steps": (
        "an adapter changes linear layers; embeddings are none, no LoRA file of llama.cpp or Ollama can hold them, and "
        "with them nothing below the first trained layer would stay as it was",
        "delete it; `dlm show` says which words of the document the base has no good tokens for",
    )
}
"""Keys of the format of which only the default may be written, because no adapter can do what they ask for.

Key → why, and what to do.
"""

Auto = Literal["auto"]
Fraction = Annotated[float, Field(ge=0, le=0.5)]
Share = Annotated[float, Field(ge=0, le=1)]
Portion = Annotated[float, Field(gt=0, le=0.5)]
Rank = Annotated[int, Field(ge=1, le=256)]
Alpha = Annotated[int, Field(ge=1, le=4096)]
Batch = Annotated[int, Field(ge=1, le=1024)]
Epochs = Annotated[int, Field(ge=1, le=1000)]
Rate = Annotated[float, Field(gt=0, le=1)]
Positive = Annotated[int, Field(ge=1, le=2**63 - 1)]
Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], Field(min_length=1)]
AdapterName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")]
Weight = Annotated[float, Field(gt=0, le=10)]


def _if(check: Callable[[str], object]) -> AfterValidator:
    """A validator that takes the texts for which `check` gives something, and refuses the others."""

    def checked(text: str) -> str:
        if not check(text):
            raise ValueError
        return text

    return AfterValidator(checked)


def _one_line(text: str) -> bool:
    return text != "" and text == text.strip() and "\n" not in text


def _outer_lines_trimmed(text: str | None) -> str | None:
    return text.strip("\n") if text else text  # `|` and `|-` in YAML mean the same prompt


class Block(BaseModel):
    """A mapping of the frontmatter: no key but the declared ones, and nobody changes it afterwards."""

    # What validates is built once, for the outermost block, and not for each of them: that takes longer than reading.
    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", defer_build=True)


B = TypeVar("B", bound=Block | dict[str, Any])
OrNull = Annotated[B, BeforeValidator(lambda block: {} if block is None else block)]
"""A block may be there with all its keys commented out, which YAML reads as null."""


class Hyperparams(Block):
    """How strongly preferences are trained."""

    beta: Share = 0.1
    alpha: Share = 0.1
    learning_rate: Auto | Rate = "auto"
    num_epochs: Auto | Epochs = "auto"


class Preference(Block):
    """Training on better and worse answers. Without `enabled` it is on where a document has preferences."""

    enabled: bool | None = None
    method: Literal["dpo", "orpo", "kto"] = "dpo"
    hyperparams: OrNull[Hyperparams] = Hyperparams.model_construct()
    loss_type: Literal["sigmoid", "hinge", "ipo"] = "sigmoid"
    reference: Literal["base", "pre_adapter"] = "pre_adapter"


class Cpt(Block):
    """How prose is trained: by which learning rates, and how much a token of it counts against one of an answer."""

    schedule: Literal["auto", "dapt", "sft"] = "auto"
    weight: Annotated[float, Field(gt=0, le=10)] = 1.0
    embed_warmup_steps: Annotated[int, Field(ge=0, le=1_000_000)] = 0


class Gate(Block):
    """A small network that weighs the named adapters for each question."""

    enabled: bool = False
    hidden_proj_dim: Annotated[int, Field(ge=8, le=2048)] = 64
    steps: Annotated[int, Field(ge=1, le=10_000)] = 200
    lr: Rate = 3e-4
    cold_start_floor: Annotated[int, Field(ge=1, le=1024)] = 4
    entropy_lambda: Share = 0.01


class Cache(Block):
    """What is kept of what frozen layers give for rows, for the next training: never anything that changes one."""

    enabled: bool = True
    max_bytes: Positive = 10 * 2**30
    prune_older_than_days: Positive = 90


class Audio(Block):
    """How recordings are read."""

    auto_resample: bool = False


class Adapter(Block):
    """What each adapter has for itself, where the document names several."""

    adapter: Literal["lora", "qlora", "dora"] = "lora"
    lora_r: Auto | Rank = "auto"
    lora_alpha: Auto | Alpha = "auto"
    lora_dropout: Auto | Fraction = "auto"
    target_modules: Auto | Texts = "auto"
    learning_rate: Auto | Rate = "auto"


class Source(Block):
    """A file or a folder whose text is part of the document."""

    path: Annotated[Text, Field(description="the path of a file or a folder")]
    include: tuple[Text, ...] = ("**/*",)
    exclude: tuple[Text, ...] = ()
    max_bytes_per_file: Positive | None = None
    max_files: Positive | None = None


Patterns = Annotated[
    tuple[Annotated[str, _if(str.strip)], ...],
    Field(max_length=MAX_PATTERNS, description="a list of patterns"),
    BeforeValidator(lambda patterns: () if patterns is None else patterns),
]
SourceWeight = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
_VALUES = "keys of metadata, each with values and a number from 0 to 100 for each"


class SourceConfig(Block):
    """A training.yaml, which a folder of sources has; see source_config.py."""

    dlm_training_version: Annotated[int, Field(ge=1, le=1, description="1")] = 1
    include: Patterns = ()
    exclude: Patterns = ()
    exclude_defaults: Annotated[bool, Field(description="true or false")] = True
    metadata: Annotated[OrNull[dict[str, str]], Field(description="keys, each with a text")] = {}
    weights: Annotated[OrNull[dict[str, OrNull[dict[str, SourceWeight]]]], Field(description=_VALUES)] = {}


_LAYERS = re.compile(r"auto|all|last [1-9][0-9]{0,3}")
_LAYERS_IN_WORDS = '"auto", "all", or "last N" for the adapter to change the last N layers only'


class Training(Adapter):
    """How the adapter is trained."""

    rslora: bool = False
    layers: Annotated[str, _if(_LAYERS.fullmatch), Field(description=_LAYERS_IN_WORDS)] = "auto"
    sequence_len: Auto | Annotated[int, Field(ge=64, le=MAX_SEQUENCE_LEN)] = "auto"
    micro_batch_size: Auto | Batch = "auto"
    grad_accum: Auto | Batch = "auto"
    num_epochs: Auto | Epochs = "auto"
    optimizer: Literal[
        "adamw_torch", "adamw_bnb_8bit", "paged_adamw_8bit", "galore_adamw", "galore_adamw_8bit"
    ] = "adamw_torch"  # fmt: skip
    lr_scheduler: Literal["auto", "cosine", "linear", "constant"] = "auto"
    warmup_ratio: Auto | Fraction = "auto"
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    validation: Portion | None = None
    early_stopping: Epochs | None = None
    incremental: Literal["warm"] | None = None
    wordings: Auto | Annotated[int, Field(ge=1, le=64)] = "auto"
    retention: Auto | Annotated[float, Field(ge=0, le=100)] = "auto"
    replay: Portion | None = None
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 42
    preference: OrNull[Preference] = Preference.model_construct()
    cpt: OrNull[Cpt] = Cpt.model_construct()
    gate: OrNull[Gate] = Gate.model_construct()
    cache: OrNull[Cache] = Cache.model_construct()
    audio: OrNull[Audio] = Audio.model_construct()
    adapters: Annotated[dict[AdapterName, OrNull[Adapter]], Field(min_length=1)] | None = None
    sources: tuple[Source, ...] | None = None
    sources_policy: Literal["permissive", "strict"] = "permissive"


class Mix(Block):
    """A weighted sum of named adapters; with `rank` its best approximation of that rank."""

    weights: Annotated[
        dict[AdapterName, Weight],
        Field(min_length=1, description="names of adapters with numbers above 0 and at most 10"),
    ]
    rank: Rank | None = None


class Export(Block):
    """What the exported model is and how it answers unless told otherwise."""

    default_quant: Quantisation = "Q4_K_M"
    default_temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    default_top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    mixes: Annotated[dict[AdapterName, Mix], Field(min_length=1)] | None = None
    imatrix: Literal["auto", "off"] = "auto"


class Evaluate(Block):
    """What a model must reach: the least shares, and the most that the perplexity of general text may grow."""

    recall: Share | None = None
    probes: Share | None = None
    retention: Share | None = None
    perplexity: Annotated[float, Field(ge=1, le=1000)] | None = None


_ULID = "a ULID: 26 digits and upper-case letters without I, L, O and U, the first at most 7"


class Frontmatter(Block):
    """The whole `---` block."""

    dlm_id: Annotated[str, _if(is_ulid), Field(description=_ULID)]
    dlm_version: Annotated[int, Field(ge=1, le=NEWEST_VERSION)]
    base_model: Annotated[str, _if(_one_line), Field(description="the name of a base on one line")]
    training: OrNull[Training] = Training.model_construct()
    export: OrNull[Export] = Export.model_construct()
    evaluate: OrNull[Evaluate] = Evaluate.model_construct()
    system_prompt: Annotated[str | None, AfterValidator(_outer_lines_trimmed)] = None


_PLUGINS = "PYDANTIC_DISABLE_PLUGINS"
"""pydantic's own variable for the plugins that it is to leave out."""


def validated(values: Mapping[str, Any]) -> Frontmatter:
    """The frontmatter that says `values`. Raises pydantic's ValidationError.

    What a document means is nothing that plugins of pydantic have a say in, and looking for them in all that is
    installed is a sixth of what `dlm check` of a small document costs.
    """
    before = os.environ.get(_PLUGINS)
    os.environ[_PLUGINS] = "__all__"
    try:
        Frontmatter.model_rebuild()  # does nothing from the second time on
    finally:
        del os.environ[_PLUGINS]
        if before is not None:
            os.environ[_PLUGINS] = before
    return Frontmatter.model_validate(values)


def field_of(path: Path) -> tuple[Path, FieldInfo]:
    """The declared key that a path leads to or through, and its declaration; `("training", "seed")`.

    Raises KeyError for a path to a key that is not declared.
    """
    block: type[Block] | None = Frontmatter
    at = 0
    while block:
        field = block.model_fields[str(path[at])]
        block, deeper = block_in(field.annotation)
        at += 1
        if not block or len(path) <= at + deeper:
            return path[:at], field
        at += deeper
    raise AssertionError("a block has no fields")


def block_at(path: Path) -> type[Block]:
    """The block that a path leads to. Raises KeyError where it leads to something else."""
    if not path:
        return Frontmatter
    block, _ = block_in(field_of(path)[1].annotation)
    if block is None:
        raise KeyError(path)
    return block


def block_in(kind: Any) -> tuple[type[Block] | None, int]:
    """The block that a type holds, and below how many further keys: 1 in a list of blocks or in blocks with names."""
    if isinstance(kind, type) and issubclass(kind, Block):
        return kind, 0
    deeper = int(get_origin(kind) in (tuple, dict))
    for member in get_args(kind):
        block, more = block_in(member)
        if block:
            return block, deeper + more
    return None, 0


def homes(block: type[Block] = Frontmatter, home: str = "") -> Iterator[tuple[str, type[Block]]]:
    """Every block with the path of its key: ("", Frontmatter), ("training", Training), …; outer ones first."""
    yield home, block
    inner = {name: block_in(field.annotation) for name, field in block.model_fields.items()}
    for name, (found, deeper) in inner.items():
        if found and not deeper:
            yield from homes(found, f"{home}.{name}".lstrip("."))


def unbuilt(values: Mapping[Any, Any], block: type[Block], path: Path = ()) -> Iterator[tuple[Path, str, str]]:
    """What asks for something that is not built: the path of a key, why it is wrong, and what to do if that is known.

    A key that says its default changes nothing, and neither does `enabled: false`: both may be there. Values that are
    wrong in themselves may be among those that are found; what the block does not declare is passed over.
    """
    for key, value in values.items():
        if key not in block.model_fields:
            continue
        here, field = (*path, key), block.model_fields[key]
        name = _OF_ONE.sub("training.", ".".join(map(str, here)))
        row = next((words for n, words in UNBUILT_BLOCKS.items() if f"{name}.".startswith(f"{n}.")), "")
        inner, deeper = block_in(field.annotation)
        if inner and not deeper:
            yield from unbuilt(value if isinstance(value, dict) else {}, inner, here)
        elif inner and isinstance(value, dict):
            for of, one in value.items():
                yield from unbuilt(one if isinstance(one, dict) else {}, inner, (*here, of))
        elif row and value not in (field.default, None, ()) and not (key == "enabled" and value is False):
            yield here, f"this version does not build {row} yet", ""
        elif name in REFUSED_KEYS and value != field.default:
            yield here, *REFUSED_KEYS[name]
        elif isinstance(value, str) and value in REFUSED_VALUES.get(name, ()):
            yield here, *REFUSED_VALUES[name][value]


_OF_ONE = re.compile(r"^training\.adapters\.[^.]*\.")
"""What a named adapter says is built where it is for all."""


def contradictions(values: Frontmatter) -> Iterator[tuple[Path, str, str]]:
    """Keys that exclude each other: the path of one, why it is wrong, and what to do."""
    training = values.training
    adapters = training.adapters or {}
    for (path, value), since in VALUES_SINCE.items():
        if values.dlm_version < since and attrgetter(".".join(path))(values) == value:
            yield path, f"version {since} has it first", TO_HAVE_IT
    if training.early_stopping and not training.validation:
        why = "it stops when the loss on held-out content no longer falls, and nothing is held out"
        yield ("training", "early_stopping"), why, "write training.validation: 0.1 beside it"
    if training.cpt.schedule == "dapt" and training.lr_scheduler in ("linear", "constant"):
        why = "continued pretraining has a schedule of its own, a cosine that ends at a tenth of the learning rate"
        yield ("training", "lr_scheduler"), why, "delete it, or write training.cpt.schedule: sft"
    if training.gate.enabled and len(adapters) < 2:
        yield ("training", "gate", "enabled"), "a gate chooses between adapters", "name two under training.adapters"
    for name, value in training.gate:
        if not training.gate.enabled and value != Gate.model_fields[name].default:
            yield ("training", "gate", name), "no gate is trained", "write enabled: true beside it, or delete it"
    for name, usual in _FLAT.items():
        if adapters and getattr(training, name) not in (usual, Training.model_fields[name].default):
            why = "where training.adapters names adapters, each has its own"
            yield ("training", name), why, f"write it under training.adapters.{next(iter(adapters))}"
    if values.export.imatrix == "off" and values.export.default_quant in WEIGHED:
        why, do = "there is none of that kind without an importance matrix", "delete imatrix: off, or write Q2_K"
        yield ("export", "default_quant"), why, do
    for name, mix in (values.export.mixes or {}).items():
        if name in adapters:
            yield ("export", "mixes", name), "an adapter has this name", "give the mix another one"
        for part in mix.weights:
            if part not in adapters:
                why = f"training.adapters names {', '.join(adapters)}" if adapters else "training.adapters names none"
                near = nearest(part, adapters)
                yield ("export", "mixes", name, "weights", part), why, f"write {near}" if near else "name an adapter"
            elif adapters[part].adapter == "dora":
                yield ("export", "mixes", name, "weights", part), *NO_MIX_OF_DORA


_FLAT: dict[str, Any] = {
    "adapter": "lora",
    "lora_r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "target_modules": "auto",
    "learning_rate": 2e-4,
}
"""What each adapter has for itself, with the defaults of the public format."""


def expectation(field: FieldInfo) -> str:
    """What a field may hold, in words: `"auto" or a whole number from 1 to 256`."""
    return field.description or " or ".join(_in_words(field.annotation, field.metadata))


def _in_words(kind: Any, metadata: list[Any]) -> list[str]:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return [words for member in get_args(kind) for words in _in_words(member, [])]
    if origin is Annotated:
        inner, *infos = get_args(kind)
        return _in_words(inner, [limit for info in infos for limit in getattr(info, "metadata", [])])
    if origin is Literal:
        return [f'"{choice}"' for choice in get_args(kind)]
    if origin is dict:
        return ["blocks of keys under names of up to 32 small letters, digits and _"]
    if origin is tuple:
        return ["a list of blocks of keys" if block_in(kind)[0] else "a list of names"]
    if kind in (int, float):
        return [("a whole number" if kind is int else "a number") + _range(metadata)]
    return [{str: "text", bool: "true or false", type(None): "null"}.get(kind, "a block of keys")]


def _range(metadata: list[Any]) -> str:
    limits = {name: getattr(m, name) for m in metadata for name in ("gt", "ge", "le") if hasattr(m, name)}
    if "gt" in limits:
        return f" above {limits['gt']} and at most {limits['le']}"
    return f" from {limits['ge']} to {limits['le']}" if limits["le"] < 2**62 else f" from {limits['ge']}"
