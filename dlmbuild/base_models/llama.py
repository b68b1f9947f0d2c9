"""The Llama architecture in its two spellings: Hugging Face checkpoints and GGUF files.

Which tensors a model of given measures has, what they are called on either side, and the order of rows in which they
differ. Sources: LlamaConfig and modeling_llama.py of transformers; conversion/llama.py and gguf-py/gguf/constants.py of
llama.cpp.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dlmbuild.errors import DlmError, Where
from dlmbuild.io.gguf_file import Header

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ARCHITECTURE = "LlamaForCausalLM"
SUPPORTED = f"only {ARCHITECTURE} without biases is converted"

_LINEARS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
ROPE_FACTORS = "rope_freqs.weight"
"""The tensor in which a GGUF keeps what Llama 3.1 does to its rotary frequencies."""


@dataclass(frozen=True, slots=True)
class LlamaTensor:
    """One weight under both names."""

    hf: str
    gguf: str
    shape: tuple[int, ...]
    """Rows (outputs) first."""
    permuted: bool
    """Whether GGUF holds the rows of every head in another order: see `to_gguf_rows`."""
    linear: bool
    """Whether it belongs to a linear layer inside a block, which LoRA may adapt."""


@dataclass(frozen=True, slots=True)
class Llama:
    """The measures of one model."""

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
    rope_scaling: tuple[float, float, float, float] | None
    """Llama 3.1's factor, low and high frequency factor and original context; None for plain rotary embeddings."""
    tied: bool
    """Whether the output layer is the token embedding."""

    def tensors(self) -> list[LlamaTensor]:
        """Every weight of the model, in the order in which llama.cpp writes them: by block, then by name."""
        whole = [
            LlamaTensor("model.embed_tokens.weight", "token_embd.weight", (self.vocab, self.hidden), False, False),
            LlamaTensor("model.norm.weight", "output_norm.weight", (self.hidden,), False, False),
        ]
        if not self.tied:
            whole.append(LlamaTensor("lm_head.weight", "output.weight", (self.vocab, self.hidden), False, False))
        query, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes = {
            "attn_q": (query, self.hidden),
            "attn_k": (keys, self.hidden),
            "attn_v": (keys, self.hidden),
            "attn_output": (self.hidden, query),
            "ffn_gate": (self.feed_forward, self.hidden),
            "ffn_up": (self.feed_forward, self.hidden),
            "ffn_down": (self.hidden, self.feed_forward),
        }
        for layer in range(self.layers):
            hf, gguf = f"model.layers.{layer}", f"blk.{layer}"
            for module, name in _NORMS.items():
                tensor = LlamaTensor(f"{hf}.{module}.weight", f"{gguf}.{name}.weight", (self.hidden,), False, False)
                whole.append(tensor)
            for module, name in _LINEARS.items():
                permuted = name in ("attn_q", "attn_k")
                names = f"{hf}.{module}.weight", f"{gguf}.{name}.weight"
                whole.append(LlamaTensor(*names, shapes[name], permuted, True))
        return sorted(whole, key=lambda tensor: block_order(tensor.gguf))

    def rope_factors(self) -> list[float] | None:
        """By what llama.cpp divides each rotary frequency, for Llama 3.1's scaling; None if there is none.

        Source: `_compute_llama3_parameters` in transformers' modeling_rope_utils.py.
        """
        if self.rope_scaling is None:
            return None
        factor, low, high, original = self.rope_scaling
        factors = []
        for pair in range(0, self.head_dim, 2):
            wavelength = 2 * math.pi * self.rope_theta ** (pair / self.head_dim)
            if wavelength < original / high:
                factors.append(1.0)
            elif wavelength > original / low:
                factors.append(factor)
            else:
                smooth = (original / wavelength - low) / (high - low)
                factors.append(1 / ((1 - smooth) / factor + smooth))
        return factors


def block_order(name: str) -> tuple[int, str]:
    """Sorts GGUF tensor names as llama.cpp's loader and quantiser do."""
    parts = name.split(".")
    block = int(parts[1]) if parts[0] == "blk" and len(parts) > 2 and parts[1].isascii() and parts[1].isdigit() else -1
    return block, name


def to_gguf_rows(rows: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """Whole heads of a query or key weight in GGUF's order.

    transformers rotates number i with number i + head_dim/2 of a head, llama.cpp neighbours: halves become pairs.
    """
    return rows.reshape(-1, 2, head_dim // 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def to_hf_rows(rows: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """The inverse of `to_gguf_rows`."""
    return rows.reshape(-1, head_dim // 2, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def llama_of_config(config: dict[str, Any], where: Where, error: type[DlmError]) -> Llama:
    """The measures in a config.json of transformers 4 or 5. Raises `error` for what is not a plain Llama."""
    architectures = config.get("architectures")
    if architectures != [ARCHITECTURE]:
        raise error(f"the base has the architecture {architectures!r}", where=where, why=SUPPORTED)
    if config.get("quantization_config"):
        raise error("the base is quantised", where=where, why="weights in F32, F16 or BF16 are needed")
    for key, plain in (("hidden_act", "silu"), ("attention_bias", False), ("mlp_bias", False)):
        if config.get(key, plain) != plain:
            raise error(f"{key} is {config[key]!r}", where=where, why=SUPPORTED)
    read = _Fields(config, where, error)
    hidden, heads = read.count("hidden_size"), read.count("num_attention_heads")
    explicit = config.get("head_dim") is not None
    rope = _rope(config, where, error)
    model = Llama(
        layers=read.count("num_hidden_layers", most=4096),
        hidden=hidden,
        feed_forward=read.count("intermediate_size"),
        heads=heads,
        kv_heads=heads if config.get("num_key_value_heads") is None else read.count("num_key_value_heads"),
        head_dim=read.count("head_dim") if explicit else hidden // heads,
        explicit_head_dim=explicit,
        vocab=read.count("vocab_size"),
        context=read.count("max_position_embeddings"),
        rms_eps=read.size("rms_norm_eps"),
        rope_theta=rope[0],
        rope_scaling=rope[1],
        tied=config.get("tie_word_embeddings") is True,
    )
    return _checked(model, where, error)


def llama_of_header(header: Header, where: Where, error: type[DlmError]) -> Llama:
    """The measures in a GGUF file. Raises `error` for what is not a plain Llama."""
    metadata = header.metadata
    found = metadata.get("general.architecture")
    if found != "llama":
        raise error(f"the file holds the architecture {found!r}", where=where, why=SUPPORTED)
    if metadata.get("general.type", "model") != "model":
        raise error(f"the file holds a {metadata['general.type']!r} and no model", where=where)
    if metadata.get("llama.expert_count", 0) != 0:
        raise error("the file holds a mixture of experts", where=where, why=SUPPORTED)
    if metadata.get("llama.rope.scaling.type", "none") != "none" or ROPE_FACTORS in header.tensors:
        raise error(
            "the file's rotary embeddings are scaled",
            where=where,
            why="a GGUF holds the result of the scaling and not the parameters that a checkpoint needs",
            do="name the checkpoint itself as base: hf:… or file:…",
        )
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise error("the file has no token_embd.weight", where=where)
    read = _Fields(metadata, where, error)
    hidden, heads = read.count("llama.embedding_length"), read.count("llama.attention.head_count")
    explicit = "llama.attention.key_length" in metadata
    kv_heads = read.count("llama.attention.head_count_kv") if "llama.attention.head_count_kv" in metadata else heads
    head_dim = read.count("llama.attention.key_length") if explicit else hidden // heads
    for key in ("llama.attention.value_length", "llama.rope.dimension_count"):
        if metadata.get(key, head_dim) != head_dim:
            raise error(f"{key} is {metadata[key]!r} and not {head_dim}", where=where, why=SUPPORTED)
    model = Llama(
        layers=read.count("llama.block_count", most=4096),
        hidden=hidden,
        feed_forward=read.count("llama.feed_forward_length"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        explicit_head_dim=explicit,
        vocab=embedding.shape[0],
        context=read.count("llama.context_length"),
        rms_eps=read.size("llama.attention.layer_norm_rms_epsilon"),
        rope_theta=read.size("llama.rope.freq_base") if "llama.rope.freq_base" in metadata else 10000.0,
        rope_scaling=None,
        tied="output.weight" not in header.tensors,
    )
    return _checked(model, where, error)


def compare_tensors(
    expected: dict[str, tuple[int, ...]], found: dict[str, Any], where: Where, error: type[DlmError]
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
        raise error(f"the unknown tensor {unknown[0]}", where=where, why=SUPPORTED)


def _checked(model: Llama, where: Where, error: type[DlmError]) -> Llama:
    if model.heads % model.kv_heads or model.head_dim < 2 or model.head_dim % 2:
        measures = f"{model.heads} heads of {model.head_dim}, {model.kv_heads} of them for keys"
        raise error(f"the base has {measures}", where=where, why="these measures fit no Llama")
    return model


def _rope(
    config: dict[str, Any], where: Where, error: type[DlmError]
) -> tuple[float, tuple[float, float, float, float] | None]:
    # transformers 5 keeps theta and scaling in rope_parameters, transformers 4 in rope_theta and rope_scaling.
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(parameters, dict):
        raise error(f"the rotary parameters are {parameters!r}", where=where)
    named = {"rope_theta": config.get("rope_theta", 10000.0)} | parameters
    theta = _Fields(named, where, error).size("rope_theta")
    kind = named.get("rope_type", named.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise error(
            f"the rotary embeddings are scaled by {kind!r}", where=where, why="plain ones and 'llama3' are converted"
        )
    read = _Fields(named, where, error)
    factor, low, high = read.size("factor"), read.size("low_freq_factor"), read.size("high_freq_factor")
    if low >= high:
        raise error(f"low_freq_factor {low} is not below high_freq_factor {high}", where=where)
    return theta, (factor, low, high, float(read.count("original_max_position_embeddings")))


@dataclass(frozen=True, slots=True)
class _Fields:
    data: dict[str, Any]
    where: Where
    error: type[DlmError]

    def count(self, key: str, most: int = (1 << 31) - 1) -> int:
        value = self.data.get(key)
        if type(value) is not int or not 1 <= value <= most:
            raise self.error(f"{key} is {value!r}", where=self.where, why=f"a whole number from 1 to {most} is needed")
        return value

    def size(self, key: str) -> float:
        value = self.data.get(key)
        if type(value) not in (int, float) or not 0 < value < 1e30:  # type: ignore[operator]
            raise self.error(f"{key} is {value!r}", where=self.where, why="a number above 0 is needed")
        return float(value)  # type: ignore[arg-type]
