"""The keys of the frontmatter and what each may hold.

Types are strict: text is never a number and `true` is never 1; a whole number may stand where a number is asked.
"auto" is resolved per base from a measured recipe, see dlmbuild.train.plan.
"""

from __future__ import annotations

from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic.fields import FieldInfo

from dlmbuild.doc.names import Quantisation
from dlmbuild.io.ulid import is_ulid

NEWEST_VERSION = 15
"""The version of the public format that this program reads; older ones differ by keys that are refused below."""

MAX_SEQUENCE_LEN = 32768
"""Tokens of the longest row that can be asked for."""

UNBUILT_KEYS = {
    "training": {"preference", "dpo", "cpt", "gate", "cache", "audio", "adapters", "sources", "sources_policy"},
}
UNBUILT_VALUES = {
    "training.adapter": {"qlora", "dora"},
    "training.optimizer": {"adamw_bnb_8bit", "paged_adamw_8bit", "galore_adamw", "galore_adamw_8bit"},
}
"""Keys and values of the public format that this version does not build. They are refused, never ignored."""

Auto = Literal["auto"]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=0.5)]
Text = Annotated[str, Field(min_length=1)]


def _ulid(text: str) -> str:
    if not is_ulid(text):
        raise ValueError
    return text


def _one_line(text: str) -> str:
    if not text or text != text.strip() or "\n" in text:
        raise ValueError
    return text


def _outer_lines_trimmed(text: str | None) -> str | None:
    return text.strip("\n") if text else text  # `|` and `|-` in YAML mean the same prompt


class Block(BaseModel):
    """A mapping of the frontmatter: no key but the declared ones, and nobody changes it afterwards."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")


class Training(Block):
    """How the adapter is trained."""

    adapter: Literal["lora"] = "lora"
    lora_r: Auto | Annotated[int, Field(ge=1, le=256)] = "auto"
    lora_alpha: Auto | Count = "auto"
    lora_dropout: Auto | Fraction = "auto"
    target_modules: Auto | Annotated[tuple[Text, ...], Field(min_length=1)] = "auto"
    sequence_len: Auto | Annotated[int, Field(ge=64, le=MAX_SEQUENCE_LEN)] = "auto"
    micro_batch_size: Auto | Count = "auto"
    grad_accum: Auto | Count = "auto"
    learning_rate: Auto | Annotated[float, Field(gt=0, le=1)] = "auto"
    num_epochs: Auto | Count = "auto"
    optimizer: Literal["adamw_torch"] = "adamw_torch"
    lr_scheduler: Literal["auto", "cosine", "linear", "constant"] = "auto"
    warmup_ratio: Auto | Fraction = "auto"
    precision: Literal["fp32", "bf16", "fp16"] | None = None
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 42


class Export(Block):
    """What the exported model is and how it answers unless told otherwise."""

    default_quant: Quantisation = "Q4_K_M"
    default_temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    default_top_p: Annotated[float, Field(gt=0, le=1)] | None = None


B = TypeVar("B", bound=Block)
OrNull = Annotated[B, BeforeValidator(lambda block: {} if block is None else block)]
"""A block may be there with all its keys commented out, which YAML reads as null."""

_ULID = "a ULID: 26 digits and upper-case letters without I, L, O and U, the first at most 7"


class Frontmatter(Block):
    """The whole `---` block."""

    dlm_id: Annotated[str, AfterValidator(_ulid), Field(description=_ULID)]
    dlm_version: Annotated[int, Field(ge=1, le=NEWEST_VERSION)]
    base_model: Annotated[str, AfterValidator(_one_line), Field(description="the name of a base on one line")]
    training: OrNull[Training] = Training()
    export: OrNull[Export] = Export()
    system_prompt: Annotated[str | None, AfterValidator(_outer_lines_trimmed)] = None


BLOCKS: dict[str, type[Block]] = {"training": Training, "export": Export}


def field_of(path: tuple[str | int, ...]) -> FieldInfo:
    """The declaration of `("seed",)` or `("training", "seed")`; deeper parts of a path are left aside."""
    block = BLOCKS[str(path[0])] if len(path) > 1 and path[0] in BLOCKS else Frontmatter
    return block.model_fields[str(path[1] if block is not Frontmatter else path[0])]


def expectation(field: FieldInfo) -> str:
    """What a field may hold, in words: `"auto" or a whole number from 1 to 256`."""
    return field.description or " or ".join(_in_words(field.annotation, field.metadata))


def _in_words(kind: Any, metadata: list[Any]) -> list[str]:
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return [words for member in get_args(kind) for words in _in_words(member, [])]
    if origin is Annotated:
        inner, *infos = get_args(kind)
        return _in_words(inner, [limit for info in infos for limit in info.metadata])
    if origin is Literal:
        return [f'"{choice}"' for choice in get_args(kind)]
    if origin is tuple:
        return ["a list of names"]
    if kind in (int, float):
        return [("a whole number" if kind is int else "a number") + _range(metadata)]
    return [{str: "text", type(None): "null"}.get(kind, "a block of keys")]


def _range(metadata: list[Any]) -> str:
    limits = {name: getattr(m, name) for m in metadata for name in ("gt", "ge", "le") if hasattr(m, name)}
    if "gt" in limits:
        return f" above {limits['gt']} and at most {limits['le']}"
    return f" from {limits['ge']} to {limits['le']}" if "le" in limits else f" from {limits['ge']}"
