"""Which type each tensor gets in a quantised file: llama.cpp's choice, tensor by tensor.

Source: `llama_tensor_get_type_impl`, `tensor_allows_quantization` and `tensor_type_fallback` in llama.cpp's
src/llama-quant.cpp, without an importance matrix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dlmbuild.base_models.decoder import block_order
from dlmbuild.errors import ExportError, Where
from dlmbuild.io.gguf_file import TYPES, Header


@dataclass(frozen=True, slots=True)
class Quantisation:
    """A kind of file."""

    file_type: int
    """`general.file_type` (LLAMA_FTYPE_*)."""
    default: str
    """The type of a tensor that no rule names."""
    more_bits: bool = False
    """Whether attn_v and ffn_down of a part of the blocks get Q6_K, """


QUANTISATIONS = {
    "F16": Quantisation(1, "F16"),
    "Q8_0": Quantisation(7, "Q8_0"),
    "Q4_K_M": Quantisation(15, "Q4_K", more_bits=True),
    "Q5_K_M": Quantisation(17, "Q5_K", more_bits=True),
    "Q6_K": Quantisation(18, "Q6_K"),
}
_FALLBACKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
"""What takes the place of a type whose blocks do not divide a row."""


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

    @classmethod
    def of_header(cls, header: Header, where: Where) -> ModelFacts:
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
        return cls(layers, heads, kv_heads, tied, experts, architecture, values)


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
    if quant == "F16":
        return ("F16", False) if stored in ("F32", "BF16") else (stored, False)
    wanted = _wanted(name, kind, facts)
    if shape[-1] % TYPES[wanted].length == 0:
        return wanted, False
    fitting = _FALLBACKS.get(wanted, wanted)
    # The output layer goes from Q6_K to Q8_0 directly, which is where its fallback leads, too.
    return (fitting, True) if shape[-1] % TYPES[fitting].length == 0 else ("F16", True)


def _wanted(name: str, kind: Quantisation, facts: ModelFacts) -> str:
    if name == "output.weight" or (facts.tied and name == "token_embd.weight"):
        return "Q8_0" if kind.default == "Q8_0" else "Q6_K"
    block = max(0, block_order(name)[0])
    eight = facts.experts == 8  # the makers of llama.cpp tuned these for Mixtral
    if name.endswith(_VALUES):
        if eight:
            return "Q8_0"
        number, count = (facts.values.index(name), len(facts.values)) if facts.values else (block, facts.layers)
        if kind.more_bits and _more_bits(number, count):
            return "Q6_K"
        return "Q5_K" if kind.default == "Q4_K" and _is_70b(facts) else kind.default
    if eight and "attn_k.weight" in name:
        return "Q8_0"
    if eight and "attn_output.weight" in name and kind.default == "Q4_K":
        return "Q5_K"
    if "ffn_down" in name and kind.more_bits and _more_bits(block, facts.layers):
        return "Q6_K"
    return kind.default


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
