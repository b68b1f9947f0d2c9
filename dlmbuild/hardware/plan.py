"""The plan: every training parameter resolved, from the document, the base's recipe and this machine.

What the document writes wins; `auto` comes from the recipe, which was measured for the base where that was possible.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlmbuild.errors import HardwareError
from dlmbuild.hardware.detect import Machine

LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""All linear layers of a llama block: attention alone learns less at the same size (LoRA Without Regret, 2025)."""

_RECIPE_FIELDS = (
    "learning_rate",
    "num_epochs",
    "micro_batch_size",
    "grad_accum",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lr_scheduler",
    "warmup_ratio",
    "sequence_len",
)


def resolve_plan(
    training: Mapping[str, Any], recipe: Mapping[str, Any], base: Mapping[str, Any], machine: Machine
) -> dict[str, Any]:
    """plan.json: every parameter that training takes, with no `auto` left.

    `base` is the content of base.json. Raises HardwareError for what this machine cannot do.
    """
    plan = {field: training[field] for field in ("adapter", "optimizer", "seed")}
    for field in _RECIPE_FIELDS:
        plan[field] = recipe[field] if training[field] == "auto" else training[field]
    if training["sequence_len"] == "auto":  # a recipe for any base may ask for more than this one reads
        plan["sequence_len"] = min(plan["sequence_len"], base["context_length"])
    modules = training["target_modules"]
    plan["target_modules"] = sorted(LINEAR_LAYERS) if modules == "auto" else sorted(set(modules))
    plan["device"] = machine.device
    plan["precision"] = _precision(training["precision"], machine)
    plan["attention"] = "sdpa"
    plan["gradient_checkpointing"] = False
    plan["threads"] = machine.threads
    if plan["sequence_len"] > base["context_length"]:
        raise HardwareError(
            f"training.sequence_len is {plan['sequence_len']}, the base reads {base['context_length']} at most",
            field="sequence_len",
            do=f"set training.sequence_len to {base['context_length']} or less",
        )
    _refuse_too_large(base, machine)
    return plan


def _precision(asked: str | None, machine: Machine) -> str:
    if asked is None:
        return machine.precision
    if asked == "fp16" and machine.device != "cuda":
        raise HardwareError(
            f"training.precision is fp16, which is slow or not a number on {machine.device}",
            field="precision",
            do="leave training.precision out, or set it to fp32",
        )
    return asked


def _refuse_too_large(base: Mapping[str, Any], machine: Machine) -> None:
    if machine.device == "cuda":
        return  # what a GPU holds is only known to its driver
    needed = base["parameters"] * 4 * 1.3  # fp32 weights, and activations and adapter at a small batch
    if needed > machine.memory_bytes * 0.9:
        raise HardwareError(
            f"training this base takes about {needed / 2**30:.0f} GiB, and the machine has "
            f"{machine.memory_bytes / 2**30:.0f} GiB",
            why="it would be killed, or swap for days",
            do="take a smaller base (base_model: smollm2-135m), or train on a larger machine",
        )
