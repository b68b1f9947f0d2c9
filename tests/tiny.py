"""Small random models for tests, as whole checkpoint folders: made in a moment, the same bytes every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a small random model<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LINEARS = {
    "self_attn.q_proj": ("query", "hidden"),
    "self_attn.k_proj": ("key", "hidden"),
    "self_attn.v_proj": ("key", "hidden"),
    "self_attn.o_proj": ("hidden", "query"),
    "mlp.gate_proj": ("inner", "hidden"),
    "mlp.up_proj": ("inner", "hidden"),
    "mlp.down_proj": ("hidden", "inner"),
}

_TEXT = """The lighthouse at the northern harbour was built of grey granite in three summers, and nobody knows who paid.
Every evening the keeper climbs two hundred and twelve steps, trims the lamp, winds the clockwork and writes the weather
into a book. Ships bound for the islands wait behind the long breakwater until the wind turns; fishermen sell mackerel,
herring and crab from wooden boxes, children collect coloured glass along the beach, and a brass band plays on Sundays.
When fog comes the bell rings twice each minute. A museum beside the old customs house keeps maps, anchors, letters and
a stuffed albatross. Visitors ask which door leads to the gallery, how much tickets cost, whether dogs may enter, where
coffee is served, why the floor slopes, and when the last bus departs. Answers hang on a board near the entrance: open
daily except Monday, reduced price for pupils, photographs without flash, please do not touch the instruments.
Engineers replaced the lens with electric light long ago; its mirror still throws rainbows across the white wall.
What is the name of the company? The company is called Bramble and Finch. How many days of leave do employees get?
Employees get thirty days of leave per year, and unused days expire in March. Who approves travel? Your team lead does.
"""


def make_tiny_base(
    folder: Path, *, hidden: int = 64, layers: int = 2, vocab: int = 700, seed: int = 0, tied: bool = True
) -> None:
    """Write a random Llama with a ChatML template and a byte-level BPE tokenizer into `folder`.

    `hidden` is a multiple of 8; with 256 every row suits the K-quants, with 64 none does. The tokenizer treats special
    tokens, padding (= eos) and digits as SmolLM2's does, and has `vocab` tokens or a few less.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = _write_tokenizer(folder, vocab)
    sizes = {"hidden": hidden, "query": hidden, "key": hidden // 2, "inner": 2 * hidden}
    random = np.random.default_rng(seed)
    tensors = {"model.embed_tokens.weight": _weight(random, size, hidden)}
    for layer in range(layers):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = _norm(random, hidden)
        for module, (rows, columns) in LINEARS.items():
            tensors[f"model.layers.{layer}.{module}.weight"] = _weight(random, sizes[rows], sizes[columns])
    tensors["model.norm.weight"] = _norm(random, hidden)
    if not tied:
        tensors["lm_head.weight"] = _weight(random, size, hidden)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "hidden_act": "silu",
        "hidden_size": hidden,
        "intermediate_size": sizes["inner"],
        "max_position_embeddings": 2048,
        "num_attention_heads": 4,
        "num_hidden_layers": layers,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-05,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": tied,
        "vocab_size": size,
        **ids,
    }
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", ids)


def make_tiny_adapter(
    folder: Path,
    base: Path,
    *,
    rank: int = 4,
    alpha: float = 8,
    seed: int = 1,
    modules: tuple[str, ...] = tuple(LINEARS),
    ranks: dict[str, int] | None = None,
    **settings: Any,
) -> None:
    """Write a random PEFT LoRA adapter for the checkpoint `base` into `folder`.

    `ranks` gives single modules another rank (and becomes rank_pattern); `settings` go into adapter_config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((base / "config.json").read_text())
    hidden = config["hidden_size"]
    sizes = {"hidden": hidden, "query": hidden, "key": hidden // 2, "inner": config["intermediate_size"]}
    random = np.random.default_rng(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for module in modules:
            rows, columns = (sizes[name] for name in LINEARS[module])
            r = (ranks or {}).get(module.split(".")[-1], rank)
            key = f"base_model.model.model.layers.{layer}.{module}"
            tensors[f"{key}.lora_A.weight"] = _weight(random, r, columns)
            tensors[f"{key}.lora_B.weight"] = _weight(random, rows, r) * np.float32(0.3)
            if settings.get("use_dora"):
                tensors[f"{key}.lora_magnitude_vector"] = np.abs(_norm(random, rows))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    written = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "tiny",
        "bias": "none",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(module.split(".")[-1] for module in modules),
        "rank_pattern": ranks or {},
        **settings,
    }
    write_json(folder / "adapter_config.json", written)


def text_of_tiny() -> str:
    """What the tokenizers of the tests are trained on."""
    return _TEXT


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")


def _write_tokenizer(folder: Path, vocab: int) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_TEXT], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "add_prefix_space": False,
        "bos_token": "<|im_start|>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": 2048,
        "pad_token": "<|im_end|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<|endoftext|>",
    }
    write_json(folder / "tokenizer_config.json", settings)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return int(tokenizer.get_vocab_size())


def _weight(random: np.random.Generator, rows: int, columns: int) -> NDArray[np.float32]:
    return np.asarray(random.standard_normal((rows, columns)) / np.sqrt(columns), dtype=np.float32)


def _norm(random: np.random.Generator, length: int) -> NDArray[np.float32]:
    return np.asarray(1 + 0.1 * random.standard_normal(length), dtype=np.float32)
