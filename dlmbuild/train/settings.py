"""Every setting of a trainer that changes the result or the speed, written out for all phases alike.

The defaults of trainers change, and some of today's hurt: a learning rate for full fine-tuning, activations computed
twice to save memory that is not short.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Any

from dlmbuild.hardware.plan import CPT_SCHEDULER

_LEAST_RATE = 0.1
"""Of the learning rate: what it ends at in continued pretraining."""


def trainer_settings(plan: Mapping[str, Any], rows: int, checkpoints: Path) -> dict[str, Any]:
    """Arguments of transformers' TrainingArguments for a plan and a number of rows."""
    batch = plan["micro_batch_size"] * plan["world_size"]
    steps = ceil(ceil(rows / batch) / plan["grad_accum"]) * plan["num_epochs"]
    return {
        "output_dir": str(checkpoints),
        "num_train_epochs": plan["num_epochs"],
        "per_device_train_batch_size": plan["micro_batch_size"],
        "gradient_accumulation_steps": plan["grad_accum"],
        "learning_rate": plan["learning_rate"],
        "lr_scheduler_type": plan["lr_scheduler"],
        "lr_scheduler_kwargs": {"min_lr_rate": _LEAST_RATE} if plan["lr_scheduler"] == CPT_SCHEDULER else None,
        # Rounded down, unlike transformers: the first step of a warm-up is at rate 0, and it may be the only one.
        "warmup_steps": int(plan["warmup_ratio"] * steps),
        # In one kernel, where there is such a variant.
        "optim": plan["optimizer"] + ("_fused" if plan["optimizer"] == "adamw_torch" else ""),
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "seed": plan["seed"],
        "data_seed": plan["seed"],
        "average_tokens_across_devices": True,
        "ddp_find_unused_parameters": False,
        # Nobody changes them, and processes differ in how many sequences they make of their rows.
        "ddp_broadcast_buffers": False,
        "bf16": plan["precision"] == "bf16" and plan["device"] == "cuda",
        "fp16": plan["precision"] == "fp16",
        "tf32": False if plan["device"] == "cuda" else None,
        "use_cpu": plan["device"] == "cpu",
        "gradient_checkpointing": plan["gradient_checkpointing"],
        "max_length": None,  # rows were measured when they were made: nothing may be cut off here
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": plan["device"] == "cuda",
        "dataloader_drop_last": False,
        "logging_strategy": "steps",
        "logging_steps": 1,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",  # the watch asks for checkpoints by the clock
        "eval_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "load_best_model_at_end": False,
    }


def assert_effective(trainer: Any, plan: Mapping[str, Any]) -> None:
    """Third-party defaults have won over what was asked for before; a trainer that differs from the plan is a bug."""
    args = trainer.args
    wanted = {
        "learning_rate": plan["learning_rate"],
        "num_train_epochs": plan["num_epochs"],
        "per_device_train_batch_size": plan["micro_batch_size"],
        "gradient_accumulation_steps": plan["grad_accum"],
        "gradient_checkpointing": plan["gradient_checkpointing"],
        "max_length": None,
        "world_size": plan["world_size"],
    }
    for name, value in wanted.items():
        assert getattr(args, name) == value, (name, getattr(args, name), value)
    lora = trainer.model.peft_config["default"]
    assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (plan["lora_r"], plan["lora_alpha"], plan["lora_dropout"])
    assert (lora.use_dora, lora.use_rslora) == (plan["adapter"] == "dora", plan["rslora"])
    assert getattr(trainer.model, "is_loaded_in_4bit", False) == (plan["adapter"] == "qlora")
    assert len(trainer.train_dataset) > 0
