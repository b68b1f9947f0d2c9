"""Small random models of every family that is converted, from transformers, with tokenizers as the family has them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.tiny import CHAT_TEMPLATE, SPECIALS, text_of_tiny, write_json

_SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "original_max_position_embeddings": 256,
    "short_factor": [1.0, 1.1, 1.2, 1.4, 1.7, 2.0],
    "long_factor": [1.0, 2.0, 4.0, 8.0, 16.0, 32.0],
}
_KINDS = ["sliding_attention", "full_attention"]
_GEMMA = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16, "layer_types": _KINDS}
_BOTH_ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
FAMILIES: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("llama", {}, "llama-bpe"),
    "llama-2": ("llama", {"tie_word_embeddings": False}, "prefix"),
    "mistral": ("mistral", {"sliding_window": 128, "head_dim": 32}, "first"),
    "mistral-nemo": ("mistral", {"sliding_window": None, "head_dim": 32}, "tekken"),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}, "prefix"),
    "smollm3": ("smollm3", {"num_hidden_layers": 5, "tie_word_embeddings": True}, "llama-bpe"),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}, "qwen2"),
    "qwen3": ("qwen3", {"head_dim": 32}, "qwen2"),
    "phi3": ("phi3", {"sliding_window": 500}, "prefix"),
    "phi4-mini": ("phi3", {"rope_parameters": _LONGROPE, "tie_word_embeddings": True}, "gpt-4o"),
    "gemma2": ("gemma2", _GEMMA, "spaces"),
    "gemma3": ("gemma3_text", {**_GEMMA, "rope_parameters": _BOTH_ROPES}, "spaces"),
    "olmo2": ("olmo2", {}, "dbrx"),
}
"""model_type, what its configuration has besides the sizes, and the kind of its tokenizer."""
_QWEN3_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 256, "head_dim": 32}
OTHERS: dict[str, tuple[str, dict[str, Any], str]] = {
    "olmo3": ("olmo3", {"sliding_window": 64}, "dbrx"),
    "qwen3_moe": ("qwen3_moe", _QWEN3_MOE, "qwen2"),
}
"""Families that llama.cpp's converter converts."""


_OF_LLAMA = ("<unk>", "<s>", "</s>")
_BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


def make_model(folder: Path, family: str, *, hidden: int = 64, decided: float = 10.0, **changes: Any) -> None:
    """Write a random model of the family into `folder`; how `decided` it is which experts a token goes to."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, more, tokenizer = (FAMILIES | OTHERS)[family]
    folder.mkdir(parents=True)
    size = write_tokenizer(folder, tokenizer, strip=family == "phi3")
    sizes = {**_SIZES, "hidden_size": hidden, "intermediate_size": 3 * hidden // 2, "vocab_size": size}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**sizes, **more, **changes}))
    for name, parameter in model.named_parameters():
        number = torch.randn_like(parameter)
        if "norm" in name:
            parameter.data = 0.1 * number + (0 if "gemma" in kind else 1)
        else:
            # A near tie falls either way in half precision.
            scale = decided if name.endswith("gate.weight") else 1.0
            parameter.data = number * (0.3 if parameter.dim() == 1 else scale * parameter.shape[-1] ** -0.5)
    model.save_pretrained(folder)


def make_adapter(folder: Path, base: Path, modules: list[str]) -> None:
    """Write a random PEFT adapter on the linear layers `modules` of the model in `base`."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(r=4, lora_alpha=4, target_modules=modules, init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(model, config).save_pretrained(folder)


def write_tokenizer(folder: Path, kind: str, *, strip: bool = False) -> int:
    """Write a tokenizer of a pre-tokenizer's name, or in the manner of SentencePiece; return how many tokens it has."""
    from tokenizers import Tokenizer, models

    from dlmbuild.base_models.pretokenizers import PRETOKENIZERS

    data: dict[str, Any] = json.loads(Tokenizer(models.BPE()).to_str())
    if kind in PRETOKENIZERS:
        known = PRETOKENIZERS[kind]
        data["pre_tokenizer"], data["decoder"] = known.json, _BYTES
        data["normalizer"] = {"type": "NFC"} if known.normal_form else None
        data["model"] = _byte_level(data) | {"ignore_merges": known.ignore_merges}
    else:
        data.update(_PIECES[kind]())
        data["model"] |= _sentence_pieces()
    data["added_tokens"] = [
        {"id": i, "content": token, "single_word": False, "lstrip": False, "normalized": False}
        | {"rstrip": strip and i in (1, 2), "special": True}
        for token, i in data["model"]["vocab"].items()
        if token in (*SPECIALS, *_OF_LLAMA)
    ]
    write_json(folder / "tokenizer.json", data)
    settings = {"bos_token": SPECIALS[1], "eos_token": SPECIALS[2], "pad_token": SPECIALS[0]}
    write_json(folder / "tokenizer_config.json", {**settings, "tokenizer_class": "PreTrainedTokenizerFast"})
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return len(data["model"]["vocab"])


def _byte_level(data: dict[str, Any]) -> dict[str, Any]:
    from tokenizers import Tokenizer, pre_tokenizers, trainers

    tokenizer = Tokenizer.from_str(json.dumps(data))
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    options = {"special_tokens": list(SPECIALS), "initial_alphabet": alphabet, "show_progress": False}
    tokenizer.train_from_iterator([text_of_tiny()], trainers.BpeTrainer(vocab_size=512, **options))
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return model


def _sentence_pieces() -> dict[str, Any]:
    """A vocabulary as SentencePiece makes it: bytes, pieces from the commonest on, and every way to merge them."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=True)
    tokenizer.train_from_iterator([text_of_tiny()], trainers.BpeTrainer(vocab_size=220, show_progress=False))
    learned = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    known = (*SPECIALS, *_OF_LLAMA, *(f"<0x{byte:02X}>" for byte in range(256)))
    texts = [*known, *(text for text, _ in learned), "\u2581\u2581"]
    vocab = {text: i for i, text in enumerate(texts)}
    pairs = [
        (vocab[text], text[:cut], text[cut:])
        for text in texts[len(known) :]
        for cut in range(1, len(text))
        if text[:cut] in vocab and text[cut:] in vocab
    ]
    merges = [[left, right] for _, left, right in sorted(pairs)]
    return {"vocab": vocab, "merges": merges, "byte_fallback": True, "fuse_unk": True, "unk_token": SPECIALS[0]}


def _pieces(normalizer: Any, cut: Any) -> Callable[[], dict[str, Any]]:
    def make() -> dict[str, Any]:
        steps = [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}]
        decoder = {"type": "Sequence", "decoders": [*steps, {"type": "Fuse"}]}
        model = {"type": "BPE", "dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None}
        return {"normalizer": normalizer, "pre_tokenizer": cut, "decoder": decoder, "model": model}

    return make


_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
_PIECES = {
    "prefix": _pieces({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, _REPLACE]}, None),
    "first": _pieces(None, {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}),
    "spaces": _pieces(
        _REPLACE, {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    ),
}
