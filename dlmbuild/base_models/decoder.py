"""The weights of a language model in its two spellings: Hugging Face checkpoints and GGUF files.

Which tensors a decoder of given measures has, what they are called on either side, and how the numbers differ: in the
order of rows, in being stacked, in being shifted by one. Which decoder a checkpoint holds says `families`. Sources: the
modeling files of transformers; llama.cpp's conversion/ and gguf-py/gguf/constants.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dlmbuild.errors import DlmError, Where

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Family:
    """What the decoders of one architecture have in common. The tables map names of modules to those in a GGUF."""

    gguf: str
    """`general.architecture`."""
    linears: Mapping[str, str]
    """The linear layers of a block, which LoRA may adapt."""
    norms: Mapping[str, str]
    experts: Mapping[str, str] = field(default_factory=dict)
    """Layers of which there is one for each expert ({} stands for its number); a GGUF stacks them."""
    router: Mapping[str, str] = field(default_factory=dict)
    """What chooses among the experts; no linear layer in transformers."""
    permuted: tuple[str, ...] = ()
    """Weights of which a GGUF holds the rows of every head in another order: see `to_gguf_rows`."""
    biased: tuple[str, ...] = ()
    """Linear layers with a bias."""
    wide_norms: bool = False
    """Whether the norms of queries and keys span all heads, and not one."""
    shifted: bool = False
    """Whether norms multiply by one more than what a checkpoint stores; a GGUF stores the multiplier."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor under both names."""

    hf: str
    """With {} in place of the expert's number, if there are experts."""
    gguf: str
    shape: tuple[int, ...]
    """Rows (outputs) first; experts before them."""
    permuted: bool = False
    linear: bool = False
    """Whether it belongs to a linear layer inside a block, which LoRA may adapt."""
    shift: int = 0
    """What a GGUF adds to each number."""

    @property
    def sources(self) -> list[str]:
        """The tensors of the checkpoint that it consists of, in order."""
        return [self.hf.format(i) for i in range(self.shape[0])] if "{}" in self.hf else [self.hf]

    @property
    def source_shape(self) -> tuple[int, ...]:
        return self.shape[1:] if "{}" in self.hf else self.shape

    @property
    def f16(self) -> bool:
        """Whether an F16 file holds it in half precision: vectors and what chooses among experts stay as they are."""
        return len(self.shape) > 1 and "ffn_gate_inp" not in self.gguf


@dataclass(frozen=True, slots=True)
class Decoder:
    """The measures of one model."""

    family: Family
    layers: int
    hidden: int
    feed_forward: int
    heads: int
    kv_heads: int
    head_dim: int
    explicit_head_dim: bool
    vocab: int
    context: int
    rms_eps: float
    rope_theta: float
    tied: bool
    """Whether the output layer is the token embedding."""
    experts: int = 0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What llama.cpp is told besides, by key without the architecture in front."""
    vectors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """Tensors of a GGUF that no checkpoint holds, computed from its configuration."""

    def weights(self) -> list[Weight]:
        """Every weight of the model, in the order in which llama.cpp writes them: by block, then by name."""
        shift = int(self.family.shifted)
        whole = [
            Weight("model.embed_tokens.weight", "token_embd.weight", (self.vocab, self.hidden)),
            Weight("model.norm.weight", "output_norm.weight", (self.hidden,), shift=shift),
        ]
        if not self.tied:
            whole.append(Weight("lm_head.weight", "output.weight", (self.vocab, self.hidden)))
        family, shapes = self.family, self._shapes()
        for layer in range(self.layers):
            hf, gguf = f"model.layers.{layer}", f"blk.{layer}"
            for module, name in family.norms.items():
                shape = shapes.get(name, (self.hidden,))
                whole.append(Weight(f"{hf}.{module}.weight", f"{gguf}.{name}.weight", shape, shift=shift))
            for module, name in (*family.experts.items(), *family.router.items()):
                whole.append(Weight(f"{hf}.{module}.weight", f"{gguf}.{name}.weight", shapes[name]))
            for module, name in family.linears.items():
                permuted = name in family.permuted
                names = f"{hf}.{module}.weight", f"{gguf}.{name}.weight"
                whole.append(Weight(*names, shapes[name], permuted, linear=True))
                if name in family.biased:
                    whole.append(Weight(f"{hf}.{module}.bias", f"{gguf}.{name}.bias", shapes[name][:1]))
        return sorted(whole, key=lambda weight: block_order(weight.gguf))

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        query, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        hidden, inner = self.hidden, self.feed_forward
        fused = "ffn_gate" not in self.family.linears.values()
        wide = self.family.wide_norms
        return {
            "attn_q": (query, hidden),
            "attn_k": (keys, hidden),
            "attn_v": (keys, hidden),
            "attn_qkv": (query + 2 * keys, hidden),
            "attn_output": (hidden, query),
            "attn_q_norm": (query,) if wide else (self.head_dim,),
            "attn_k_norm": (keys,) if wide else (self.head_dim,),
            "ffn_gate": (inner, hidden),
            "ffn_up": (2 * inner, hidden) if fused else (inner, hidden),
            "ffn_down": (hidden, inner),
            "ffn_gate_inp": (self.experts, hidden),
            "ffn_gate_exps": (self.experts, inner, hidden),
            "ffn_up_exps": (self.experts, inner, hidden),
            "ffn_down_exps": (self.experts, hidden, inner),
        }


def block_order(name: str) -> tuple[int, str]:
    """Sorts GGUF tensor names as llama.cpp's loader and quantiser do."""
    parts = name.split(".")
    block = int(parts[1]) if parts[0] == "blk" and len(parts) > 2 and parts[1].isascii() and parts[1].isdigit() else -1
    return block, name


def to_gguf_rows(rows: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """Whole heads of a query or key weight in the order of the GGUF architecture "llama".

    transformers rotates number i with number i + head_dim/2 of a head, llama.cpp neighbours: halves become pairs.
    """
    return rows.reshape(-1, 2, head_dim // 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def to_hf_rows(rows: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """The inverse of `to_gguf_rows`."""
    return rows.reshape(-1, head_dim // 2, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def compare_tensors(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, Any], where: Where, error: type[DlmError]
) -> None:
    """Refuse a file whose tensors are not exactly those that its measures promise."""
    for name, shape in expected.items():
        if name not in found:
            raise error(f"the tensor {name} is missing", where=where, why="the configuration promises it")
        if tuple(found[name].shape) != shape:
            raise error(
                f"the tensor {name} has the shape {tuple(found[name].shape)}",
                where=where,
                why=f"the configuration promises {shape}",
            )
    if unknown := sorted(set(found) - set(expected)):
        raise error(f"the unknown tensor {unknown[0]}", where=where, why="the configuration does not promise it")
