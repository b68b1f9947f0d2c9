"""Which type each tensor gets in a quantised file: llama.cpp's choice, tensor by tensor.

Source: `llama_tensor_get_type_impl`, `tensor_allows_quantization` and `tensor_type_fallback` in llama.cpp's
src/llama-quant.cpp. A matrix that says which inputs matter changes some of the choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dlmbuild.base_models.decoder import block_order
from dlmbuild.errors import ExportError, Where
from dlmbuild.io.gguf_file import Header, types


@dataclass(frozen=True, slots=True)
class Quantisation:
    """A kind of file."""

    file_type: int
    """`general.file_type` (LLAMA_FTYPE_*)."""
    default: str
    """The type of a tensor that no rule names."""
    output: str = ""
    """The type of attn_output where no experts are, if another."""


QUANTISATIONS = {
    "F16": Quantisation(1, "F16"),
    "BF16": Quantisation(32, "BF16"),
    "Q8_0": Quantisation(7, "Q8_0"),
    "Q6_K": Quantisation(18, "Q6_K"),
    "Q5_K_M": Quantisation(17, "Q5_K"),
    "Q5_K_S": Quantisation(16, "Q5_K"),
    "Q5_1": Quantisation(9, "Q5_1"),
    "Q5_0": Quantisation(8, "Q5_0"),
    "Q4_K_M": Quantisation(15, "Q4_K"),
    "Q4_K_S": Quantisation(14, "Q4_K"),
    "Q4_1": Quantisation(3, "Q4_1"),
    "Q4_0": Quantisation(2, "Q4_0"),
    "IQ4_NL": Quantisation(25, "IQ4_NL"),
    "IQ4_XS": Quantisation(30, "IQ4_XS"),
    "Q3_K_L": Quantisation(13, "Q3_K", output="Q5_K"),
    "Q3_K_M": Quantisation(12, "Q3_K", output="Q4_K"),
    "Q3_K_S": Quantisation(11, "Q3_K"),
    "IQ3_M": Quantisation(27, "IQ3_S", output="Q4_K"),
    "IQ3_S": Quantisation(26, "IQ3_S"),
    "Q2_K": Quantisation(10, "Q2_K", output="Q3_K"),
    "IQ3_XS": Quantisation(22, "IQ3_S"),
    "IQ3_XXS": Quantisation(23, "IQ3_XXS", output="IQ3_S"),
    "Q2_K_S": Quantisation(21, "Q2_K"),
    "IQ2_M": Quantisation(29, "IQ2_S", output="IQ3_S"),
    "IQ2_S": Quantisation(28, "IQ2_XS", output="IQ3_S"),
    "IQ2_XS": Quantisation(20, "IQ2_XS"),
    "IQ2_XXS": Quantisation(19, "IQ2_XXS"),
    "IQ1_M": Quantisation(31, "IQ1_M", output="IQ2_XXS"),
    "IQ1_S": Quantisation(24, "IQ1_S", output="IQ2_XXS"),
}
_WEIGHED_TYPES = ("IQ3_XXS", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ1_S", "IQ1_M")
"""Types of tensors that llama.cpp makes with an importance matrix only."""
_TWO_BITS = {"IQ2_M": "IQ3_S", "IQ2_S": "IQ3_S", "IQ2_XS": "Q2_K", "IQ2_XXS": "Q2_K", "IQ1_M": "Q2_K", "IQ1_S": "Q2_K"}
"""Kinds of less than three bits → the type of what matters most in them."""
_FALLBACKS = {
    **dict.fromkeys(("IQ3_S", *_WEIGHED_TYPES), "IQ4_NL"),
    "IQ4_XS": "IQ4_NL",
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}
"""What takes the place of a type whose blocks do not divide a row."""

_FEW_BITS = ("Q2_K", "Q3_K", "Q4_K", "IQ4_NL", "IQ4_XS", "IQ3_S", *_WEIGHED_TYPES)
_VALUES = ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight")
_KEPT = (
    "_norm.weight",
    "ffn_gate_inp.weight",
    "altup",
    "laurel",
    "per_layer_model_proj",
    "ssm_conv1d",
    "shortconv.conv",
)
"""Parts of the names of tensors that are small or choose something, and are not quantised."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the choice depends on besides the tensor."""

    layers: int
    heads: int
    kv_heads: int
    tied: bool
    experts: int = 0
    architecture: str = "llama"
    values: tuple[str, ...] = ()
    """The tensors with values of attention in the file's order; empty where every block has one."""
    weighed: bool = False
    """Whether the model is rounded by an importance matrix."""

    @classmethod
    def of_header(cls, header: Header, where: Where, *, weighed: bool) -> ModelFacts:
        """The facts of a GGUF file; ExportError if it does not tell them."""
        architecture = str(header.metadata.get("general.architecture"))

        def number(key: str, absent: Any) -> Any:
            found = header.metadata.get(f"{architecture}.{key}", absent)
            # Models whose layers differ give a list.
            return max(found, default=absent) if isinstance(found, list) and found else found

        heads = number("attention.head_count", None)
        facts = number("block_count", None), heads, number("attention.head_count_kv", heads), number("expert_count", 0)
        if any(type(fact) is not int for fact in facts):
            raise ExportError("the file does not say how many layers and heads it has", where=where)
        layers, heads, kv_heads, experts = facts
        values = tuple(name for name in sorted(header.tensors, key=block_order) if name.endswith(_VALUES))
        tied = "output.weight" not in header.tensors
        return cls(layers, heads, kv_heads, tied, experts, architecture, values, weighed)


def quantisation(quant: str) -> Quantisation:
    """The kind of file that `quant` names; ExportError for an unknown one."""
    if quant not in QUANTISATIONS:
        raise ExportError(f"the quantisation {quant!r} is not known", do=f"choose one of {', '.join(QUANTISATIONS)}")
    return QUANTISATIONS[quant]


def tensor_type(
    name: str, shape: tuple[int, ...], quant: str, facts: ModelFacts, stored: str = "F16"
) -> tuple[str, bool]:
    """The type of the tensor `name` in a file of the kind `quant`, and whether its shape forced another than meant.

    `stored` is its type in the F16 file, which norms and vectors keep. `shape` is rows first.
    """
    kind = quantisation(quant)
    dimensions = len(shape) - next((i for i, length in enumerate(shape) if length > 1), len(shape) - 1)
    if dimensions < 2 or not name.endswith("weight") or any(part in name for part in _KEPT):
        return stored, False
    if kind.default in ("F16", "BF16"):
        return kind.default, False
    wanted = _wanted(name, quant, facts)
    if shape[-1] % types()[wanted].length == 0:
        return wanted, False
    fitting = "Q8_0" if _is_output(name, facts) else _FALLBACKS.get(wanted, wanted)
    return (fitting, True) if shape[-1] % types()[fitting].length == 0 else ("F16", True)


def tensor_types(header: Header, quant: str, where: Where, *, weighed: bool = False) -> dict[str, tuple[str, bool]]:
    """`tensor_type` of all tensors of a file, in the order of their blocks."""
    facts, tensors = ModelFacts.of_header(header, where, weighed=weighed), header.tensors
    names = sorted(tensors, key=block_order)
    return {name: tensor_type(name, tensors[name].shape, quant, facts, tensors[name].type) for name in names}


def needs_importance(name: str, kind: str, quant: str) -> bool:
    """Whether llama.cpp makes the tensor `name` of the type `kind` with an importance matrix only.

    Source: `tensor_requires_imatrix`, ibid.
    """
    if name in ("token_embd.weight", "output.weight"):
        return False
    return kind in _WEIGHED_TYPES or (kind, quant) == ("Q2_K", "Q2_K_S")


def fallbacks(header: Header, quant: str, where: Where, *, weighed: bool) -> list[str]:
    """The tensors of a file of the kind `quant` whose rows no block of the meant type divides: they have another."""
    types = tensor_types(header, quant, where, weighed=weighed)
    return [name for name, (_, fell_back) in types.items() if fell_back]


def _wanted(name: str, quant: str, facts: ModelFacts) -> str:
    default = QUANTISATIONS[quant].default
    if _is_output(name, facts):
        if default == "Q8_0":
            return default
        return "Q5_K" if quant in _TWO_BITS or quant == "IQ3_XXS" else "Q6_K"
    if name == "token_embd.weight":
        return "IQ3_S" if quant == "IQ3_XXS" else _TWO_BITS.get(quant, default)
    block = max(0, block_order(name)[0])
    eight = facts.experts == 8  # the makers of llama.cpp tuned these for Mixtral
    if name.endswith(_VALUES):
        if eight and quant not in _TWO_BITS:
            return "Q8_0"
        number, count = (facts.values.index(name), len(facts.values)) if facts.values else (block, facts.layers)
        chosen = _of_values(quant, number, count, facts) or default
        return "Q5_K" if chosen in ("Q3_K", "Q4_K") and _is_70b(facts) else chosen
    if eight and "attn_k.weight" in name:
        return "Q4_K" if quant in _TWO_BITS else "Q8_0"
    if "attn_output.weight" in name:
        if not eight:
            return QUANTISATIONS[quant].output or default
        return "Q5_K" if default in _FEW_BITS and quant not in ("Q3_K_L", "Q2_K_S") else default
    if "ffn_down" in name:
        return _of_ffn_down(quant, block, facts) or default
    if "attn_k.weight" in name or "attn_q.weight" in name:
        return {"IQ3_XS": "IQ3_XXS", "IQ3_XXS": "IQ2_S"}.get(quant, default)
    if quant == "IQ3_XS" and ("ffn_gate" in name or "ffn_up" in name):
        middle = facts.layers // 8 <= block < 7 * facts.layers // 8
        return "IQ3_XXS" if middle else default
    return default


def _is_output(name: str, facts: ModelFacts) -> bool:
    return name == "output.weight" or (facts.tied and name == "token_embd.weight")


def _of_values(quant: str, number: int, count: int, facts: ModelFacts) -> str:
    """The type of the values of attention, the `number`-th of `count`; empty for the default."""
    shared = facts.kv_heads > 0 and facts.heads // facts.kv_heads >= 4
    if quant in _TWO_BITS:
        return "Q4_K" if shared or facts.experts >= 4 else _TWO_BITS[quant]
    match quant:
        case "Q2_K":
            return "Q4_K" if shared else "Q3_K"
        case "IQ3_XS" | "IQ3_XXS" | "IQ3_S" | "Q2_K_S":
            return "Q4_K" if shared else ""
        case "IQ3_M":
            return "Q4_K"
        case "Q3_K_M":
            return "Q5_K" if number < 2 else "Q4_K"
        case "Q3_K_L":
            return "Q5_K"
        case "IQ4_NL" | "IQ4_XS":
            return "Q5_K" if shared else ""
        case "Q4_K_S":
            return "Q5_K" if number < 4 else ""
        case "Q4_K_M" | "Q5_K_M":
            return "Q6_K" if _more_bits(number, count) else ""
    return ""


def _of_ffn_down(quant: str, block: int, facts: ModelFacts) -> str:
    """The type of the last layer of a block; empty for the default."""
    early = block < facts.layers // 8
    if quant in _TWO_BITS:
        return _TWO_BITS[quant] if early else ""
    match quant:
        case "Q2_K":
            return "Q3_K"
        case "Q3_K_M":
            return "Q5_K" if block < facts.layers // 16 else "Q4_K"
        case "IQ3_M":
            return "Q4_K" if early or (facts.experts == 8 and _more_bits(block, facts.layers)) else ""
        case "Q2_K_S":
            return "Q4_K" if early else ""
        case "Q3_K_L":
            return "Q5_K"
        case "Q4_K_S":
            return "Q5_K" if early else ""
        case "IQ4_NL" | "IQ4_XS":
            return "Q5_K" if early and not facts.weighed else ""
        case "Q4_0" | "Q5_0":
            return quant.replace("_0", "_1") if early and facts.weighed else ""
        case "Q4_K_M" | "Q5_K_M":
            return "Q6_K" if _more_bits(block, facts.layers) else ""
    return ""


def _is_70b(facts: ModelFacts) -> bool:
    """llama.cpp's 70B: eight query heads share a value head, so more bits cost little."""
    return facts.layers == 80 and (
        facts.architecture in ("qwen2", "deci", "olmo")
        or (facts.architecture == "llama" and facts.heads != facts.kv_heads)
    )


def _more_bits(block: int, blocks: int) -> bool:
    """The first and the last eighth of the blocks, and every third between."""
    eighth = blocks // 8
    return block < eighth or block >= 7 * blocks // 8 or (block - eighth) % 3 == 2
