"""The architectures that are converted here, and what the configuration of a checkpoint says of one of them.

By hand and not by llama.cpp's script, because a family is a table of names and a handful of numbers, while the script
imports torch, needs seven times the time, puts folder names into the file and has to be fetched first. What it knows
beyond this table goes through it: see `official`. A family's quirk is checked, never assumed: where llama.cpp computes
something by a rule of its own (which layers see a window, how attention is scaled), a configuration that says
otherwise is refused. Sources: the configuration and modeling files of transformers; llama.cpp's src/models/.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dlmbuild.base_models.decoder import Decoder, Family
from dlmbuild.base_models.fields import Fields
from dlmbuild.errors import DlmError, Where

_ATTENTION = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
}
_LINEARS = {**_ATTENTION, "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
_FUSED = {
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_EXPERTS = {
    "block_sparse_moe.experts.{}.w1": "ffn_gate_exps",
    "block_sparse_moe.experts.{}.w2": "ffn_down_exps",
    "block_sparse_moe.experts.{}.w3": "ffn_up_exps",
}
_NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
_NORMS_BEHIND = {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"}
_NORMS_AROUND = {**_NORMS_BEHIND, "input_layernorm": "attn_norm", "pre_feedforward_layernorm": "ffn_norm"}
_HEAD_NORMS = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
_ROTATED = ("attn_q", "attn_k")

LLAMA = Family("llama", _LINEARS, _NORMS, permuted=_ROTATED)
FAMILIES = {
    "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": LLAMA,
    "MixtralForCausalLM": Family(
        "llama", _ATTENTION, _NORMS, _EXPERTS, {"block_sparse_moe.gate": "ffn_gate_inp"}, permuted=_ROTATED
    ),
    "SmolLM3ForCausalLM": replace(LLAMA, gguf="smollm3"),
    "Qwen2ForCausalLM": Family("qwen2", _LINEARS, _NORMS, biased=("attn_q", "attn_k", "attn_v")),
    "Qwen3ForCausalLM": Family("qwen3", _LINEARS, {**_NORMS, **_HEAD_NORMS}),
    "Phi3ForCausalLM": Family("phi3", _FUSED, _NORMS),
    "Gemma2ForCausalLM": Family("gemma2", _LINEARS, _NORMS_AROUND, shifted=True),
    "Gemma3ForCausalLM": Family("gemma3", _LINEARS, {**_NORMS_AROUND, **_HEAD_NORMS}, shifted=True),
    "Olmo2ForCausalLM": Family("olmo2", _LINEARS, {**_NORMS_BEHIND, **_HEAD_NORMS}, wide_norms=True),
}
"""By the architecture that config.json names."""

_PLAIN = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
_GEMMA = {"hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "attention_bias": False}


def decoder_of_config(config: dict[str, Any], where: Where, error: type[DlmError]) -> Decoder:
    """The decoder that a config.json of transformers 4 or 5 describes.

    Raises `error` for an architecture that is not in `FAMILIES`, and for a configuration of a family that llama.cpp
    would compute otherwise.
    """
    architectures = config.get("architectures")
    known = isinstance(architectures, list) and len(architectures) == 1 and architectures[0] in FAMILIES
    if not known:
        why = f"known: {', '.join(sorted(FAMILIES))}"
        raise error(f"the base has the architecture {architectures!r}", where=where, why=why)
    if config.get("quantization_config"):
        raise error("the base is quantised", where=where, why="weights in F32, F16 or BF16 are needed")
    architecture: str = architectures[0]  # type: ignore[index]
    family = FAMILIES[architecture]
    read = Fields(config, where, error)
    gemma = family.shifted
    for key, plain in (_GEMMA if gemma else _PLAIN).items():
        read.require(key, plain, architecture)
    hidden, heads = read.count("hidden_size"), read.count("num_attention_heads")
    explicit = config.get("head_dim") is not None
    rope = _rope(read, "full_attention")
    tied = config.get("tie_word_embeddings")
    decoder = Decoder(
        family=family,
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
        rope_theta=rope.size("rope_theta"),
        tied=gemma if tied is None else tied is True,
        experts=read.count("num_local_experts", most=1024) if family.experts else 0,
    )
    return _QUIRKS[family.gguf](checked(decoder, where, error), read, rope)


def checked(decoder: Decoder, where: Where, error: type[DlmError]) -> Decoder:
    """The decoder, if its heads can be computed."""
    if decoder.heads % decoder.kv_heads or decoder.head_dim < 2 or decoder.head_dim % 2:
        measures = f"{decoder.heads} heads of {decoder.head_dim}, {decoder.kv_heads} of them for keys"
        raise error(f"the base has {measures}", where=where, why="these measures fit no model")
    return decoder


def _rope(read: Fields, attention: str) -> Fields:
    """The rotary parameters of one kind of attention.

    transformers 5 keeps them in rope_parameters, by kind where there are several; transformers 4 in rope_theta and
    rope_scaling.
    """
    config = read.data
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(parameters, dict) or not isinstance(parameters.get(attention, {}), dict):
        raise read.error(f"the rotary parameters are {parameters!r}", where=read.where)
    named = {"rope_theta": config.get("rope_theta", 10000.0)} | parameters.get(attention, parameters)
    return replace(read, data=named)


def _scaling(rope: Fields, *known: str) -> str:
    """By what the rotary embeddings are scaled: "default", or one of `known`."""
    kind = rope.data.get("rope_type", rope.data.get("type", "default"))
    if kind not in ("default", *known):
        raise rope.error(
            f"the rotary embeddings are scaled by {kind!r}",
            where=rope.where,
            why=f"converted are {' and '.join(('plain ones', *map(repr, known)))}",
        )
    return str(kind)


def _within_window(decoder: Decoder, read: Fields) -> Decoder:
    """For architectures that llama.cpp computes without a sliding window: a text that fits into it needs none."""
    if read.data.get("sliding_window") is None or read.data.get("use_sliding_window") is False:
        return decoder
    return replace(decoder, context=min(decoder.context, read.count("sliding_window")))


def _llama(decoder: Decoder, read: Fields, rope: Fields) -> Decoder:
    metadata: dict[str, Any] = {"vocab_size": decoder.vocab, "rope.dimension_count": decoder.head_dim}
    if decoder.experts:
        used = read.count("num_experts_per_tok", most=decoder.experts)
        metadata |= {"expert_count": decoder.experts, "expert_used_count": used}
    vectors = {}
    if _scaling(rope, "llama3") == "llama3":
        vectors["rope_freqs.weight"] = _llama3_factors(decoder, rope)
    return _within_window(replace(decoder, metadata=metadata, vectors=vectors), read)


def _llama3_factors(decoder: Decoder, rope: Fields) -> tuple[float, ...]:
    """By what Llama 3.1 divides each rotary frequency.

    Source: `_compute_llama3_parameters` in transformers' modeling_rope_utils.py.
    """
    factor, low, high = rope.size("factor"), rope.size("low_freq_factor"), rope.size("high_freq_factor")
    if low >= high:
        raise rope.error(f"low_freq_factor {low} is not below high_freq_factor {high}", where=rope.where)
    original = float(rope.count("original_max_position_embeddings"))
    factors = []
    for pair in range(0, decoder.head_dim, 2):
        wavelength = 2 * math.pi * decoder.rope_theta ** (pair / decoder.head_dim)
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return tuple(factors)


def _smollm3(decoder: Decoder, read: Fields, rope: Fields) -> Decoder:
    _scaling(rope)
    # llama.cpp leaves out the rotation in every fourth layer, whatever a file says.
    read.require("no_rope_layers", [int((i + 1) % 4 != 0) for i in range(decoder.layers)], "SmolLM3")
    metadata = {"vocab_size": decoder.vocab, "rope.dimension_count": decoder.head_dim}
    return _within_window(replace(decoder, metadata=metadata), read)


def _qwen(decoder: Decoder, read: Fields, rope: Fields) -> Decoder:
    _scaling(rope)
    return _within_window(decoder, read)


def _olmo2(decoder: Decoder, read: Fields, rope: Fields) -> Decoder:
    _scaling(rope)
    _plain_heads(decoder, read)
    read.require("tie_word_embeddings", False, "OLMo 2")
    return decoder


def _phi3(decoder: Decoder, read: Fields, rope: Fields) -> Decoder:
    """Phi-3 and Phi-4: a part of each head may be left unrotated, and long contexts have factors of their own.

    llama.cpp takes the long factors as soon as a context of more than the original length is asked for, transformers
    from the first token beyond it. Source: `_compute_longrope_parameters` in transformers' modeling_rope_utils.py.
    """
    _plain_heads(decoder, read)
    named = {"original_max_position_embeddings": decoder.context, "partial_rotary_factor": 1.0}
    named |= {key: read.data[key] for key in named if read.data.get(key) is not None}
    rope = replace(rope, data=named | rope.data)
    part = rope.size("partial_rotary_factor")
    rotated, original = int(decoder.head_dim * part), rope.count("original_max_position_embeddings")
    if part > 1 or rotated < 2 or rotated % 2 or original < 2:
        raise rope.error(f"partial_rotary_factor is {part}, the original context {original}", where=rope.where)
    metadata: dict[str, Any] = {"rope.dimension_count": rotated, "rope.scaling.original_context_length": original}
    vectors = {}
    if _scaling(rope, "longrope", "su") != "default":
        given = rope.data.get("factor")
        factor = decoder.context / original if given is None else rope.size("factor")
        attention = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
        if rope.data.get("attention_factor") is not None:
            attention = rope.size("attention_factor")
        metadata["rope.scaling.attn_factor"] = attention
        for length in ("long", "short"):
            vectors[f"rope_factors_{length}.weight"] = rope.sizes(f"{length}_factor", rotated // 2)
    return _within_window(replace(decoder, metadata=metadata, vectors=vectors), read)


def _gemma2(decoder: Decoder, read: Fields, rope: Fields) -> Decoder:
    _scaling(rope)
    _gemma_attention(decoder, read, largest=46)
    metadata = {
        "attn_logit_softcapping": read.size("attn_logit_softcapping"),
        "final_logit_softcapping": read.size("final_logit_softcapping"),
        **_windows(decoder, read, 2),
    }
    return replace(decoder, metadata=metadata)


def _gemma3(decoder: Decoder, read: Fields, rope: Fields) -> Decoder:
    _gemma_attention(decoder, read, largest=62)
    read.require("attn_logit_softcapping", False, "Gemma 3")
    read.require("use_bidirectional_attention", False, "Gemma 3")
    local = _rope(read, "sliding_attention")
    if "sliding_attention" not in (read.data.get("rope_parameters") or {}):  # as transformers 4 wrote it
        local = replace(local, data={"rope_theta": read.data.get("rope_local_base_freq", 10000.0)})
    _scaling(local)
    metadata = {"rope.freq_base_swa": local.size("rope_theta"), **_windows(decoder, read, 6)}
    if _scaling(rope, "linear") == "linear":
        metadata |= {"rope.scaling.type": "linear", "rope.scaling.factor": rope.size("factor")}
    if read.data.get("final_logit_softcapping") is not None:
        metadata["final_logit_softcapping"] = read.size("final_logit_softcapping")
    return replace(decoder, metadata=metadata)


def _gemma_attention(decoder: Decoder, read: Fields, *, largest: int) -> None:
    """llama.cpp tells the largest model of a generation by its layers, and scales its attention otherwise."""
    wanted = decoder.hidden // decoder.heads if decoder.layers == largest else decoder.head_dim
    if (found := read.data.get("query_pre_attn_scalar", 256)) != wanted:
        raise read.error(
            f"query_pre_attn_scalar is {found!r}", where=read.where, why=f"llama.cpp computes this model with {wanted}"
        )


def _windows(decoder: Decoder, read: Fields, every: int) -> dict[str, Any]:
    """The sliding window, and for each layer whether it has one; the last of `every` few layers has none."""
    config = read.data
    kinds = config.get("layer_types")
    if kinds is None:
        named = "sliding_window_pattern" if "sliding_window_pattern" in config else "_sliding_window_pattern"
        every = read.count(named) if config.get(named) is not None else every
        kinds = ["full_attention" if (i + 1) % every == 0 else "sliding_attention" for i in range(decoder.layers)]
    two = ("full_attention", "sliding_attention")
    if not isinstance(kinds, list) or len(kinds) != decoder.layers or not all(kind in two for kind in kinds):
        raise read.error(f"layer_types is {kinds!r}", where=read.where, why="one of two kinds for each layer is needed")
    return {
        "attention.sliding_window": read.count("sliding_window"),
        "attention.sliding_window_pattern": [kind == "sliding_attention" for kind in kinds],
    }


def _plain_heads(decoder: Decoder, read: Fields) -> None:
    if decoder.heads * decoder.head_dim != decoder.hidden:
        raise read.error(
            f"the base has {decoder.heads} heads of {decoder.head_dim} and a width of {decoder.hidden}",
            where=read.where,
            why=f"llama.cpp's {decoder.family.gguf} has heads that make up the width",
        )


_QUIRKS: dict[str, Callable[[Decoder, Fields, Fields], Decoder]] = {
    "llama": _llama,
    "smollm3": _smollm3,
    "qwen2": _qwen,
    "qwen3": _qwen,
    "phi3": _phi3,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "olmo2": _olmo2,
}
