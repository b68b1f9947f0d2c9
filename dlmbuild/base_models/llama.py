"""The measures of a Llama in a GGUF file, the only architecture that is made into a checkpoint again.

Sources: conversion/llama.py and gguf-py/gguf/constants.py of llama.cpp.
"""

from __future__ import annotations

from dlmbuild.base_models.decoder import Decoder
from dlmbuild.base_models.families import LLAMA, checked
from dlmbuild.base_models.fields import Fields
from dlmbuild.errors import DlmError, Where
from dlmbuild.io.gguf_file import Header

_SUPPORTED = "only LlamaForCausalLM without biases can be taken from a GGUF"


def llama_of_header(header: Header, where: Where, error: type[DlmError]) -> Decoder:
    """The measures in a GGUF file. Raises `error` for what is not a plain Llama."""
    metadata = header.metadata
    found = metadata.get("general.architecture")
    if found != "llama":
        raise error(f"the file holds the architecture {found!r}", where=where, why=_SUPPORTED)
    if metadata.get("general.type", "model") != "model":
        raise error(f"the file holds a {metadata['general.type']!r} and no model", where=where)
    if metadata.get("llama.expert_count", 0) != 0:
        raise error("the file holds a mixture of experts", where=where, why=_SUPPORTED)
    if metadata.get("llama.rope.scaling.type", "none") != "none" or "rope_freqs.weight" in header.tensors:
        raise error(
            "the file's rotary embeddings are scaled",
            where=where,
            why="a GGUF holds the result of the scaling and not the parameters that a checkpoint needs",
            do="name the checkpoint itself as base: hf:… or file:…",
        )
    embedding = header.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise error("the file has no token_embd.weight", where=where)
    read = Fields(metadata, where, error)
    hidden, heads = read.count("llama.embedding_length"), read.count("llama.attention.head_count")
    explicit = "llama.attention.key_length" in metadata
    kv_heads = read.count("llama.attention.head_count_kv") if "llama.attention.head_count_kv" in metadata else heads
    head_dim = read.count("llama.attention.key_length") if explicit else hidden // heads
    for key in ("llama.attention.value_length", "llama.rope.dimension_count"):
        if metadata.get(key, head_dim) != head_dim:
            raise error(f"{key} is {metadata[key]!r} and not {head_dim}", where=where, why=_SUPPORTED)
    model = Decoder(
        family=LLAMA,
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
        tied="output.weight" not in header.tensors,
    )
    return checked(model, where, error)
