"""Five real training steps on a random model of no use, to see whether this machine makes the same bytes twice.

The model is a Llama small enough to be made here and large enough that its matrices are computed by several threads.
Its weights and rows are a function of constants, so the adapter's digest also tells two machines or releases apart.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlmbuild.data.rows import Row
from dlmbuild.hardware.plan import attention
from dlmbuild.io.digest import sha256_file
from dlmbuild.io.progress import Progress
from dlmbuild.train.sft import fit

STEPS = 5
_BATCH = 2
_VOCABULARY = 512
_HIDDEN = 256


def five_steps(*, device: str, precision: str, threads: int, out: Path, progress: Progress) -> dict[str, Any]:
    """Train below the empty folder `out`; returns the sha256 of the adapter's weights."""
    base, version = out / "base", out / "version"
    _make_base(base)
    version.mkdir()
    plan = {
        "adapter": "lora",
        "attention": attention(device, precision),
        "cpt": {"weight": 1.0},
        "device": device,
        "gradient_checkpointing": False,
        "grad_accum": 1,
        "layers": "all",
        "learning_rate": 1e-3,
        "lora_alpha": 16,
        "lora_dropout": 0.1,  # so that the random generators take part
        "lora_r": 8,
        "lr_scheduler": "cosine",
        "micro_batch_size": _BATCH,
        "num_epochs": 1,
        "optimizer": "adamw_torch",
        "precision": precision,
        "retention": 0.0,
        "retention_rows": 0,
        "wordings": 1,
        "rslora": False,
        "validation": 0,
        "early_stopping": 0,
        "seed": 7,
        "sequence_len": 128,
        "target_modules": ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"],
        "threads": threads,
        "warmup_ratio": 0.0,
        "world_size": 1,
    }
    fit(
        _rows(),
        0,
        base=base,
        log=out / "steps.jsonl",
        checkpoints=out / "checkpoints",
        plan=plan,
        base_identity={"name": "selftest", "revision": "1", "source": "made here", "files": {}},
        checkpoint_seconds=float("inf"),
        out=version,
        progress=progress,
    )
    return {"adapter": sha256_file(version / "adapter_model.safetensors")}


def _make_base(folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=_VOCABULARY,
        hidden_size=_HIDDEN,
        intermediate_size=2 * _HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def _rows() -> list[Row]:
    """As many as five batches take, of different lengths, half of them with a part that is given."""
    rows = []
    for number in range(STEPS * _BATCH):
        ids = tuple((number * 31 + at * at) % (_VOCABULARY - 1) + 1 for at in range(40 + 8 * number))
        rows.append(Row("instruction", ids, 10) if number % 2 else Row("prose", ids, 0))
    return rows
