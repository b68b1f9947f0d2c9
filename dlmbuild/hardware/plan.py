"""The plan: every training parameter resolved, from the document, the base's recipe and this machine.

What the document writes wins; `auto` comes from the recipe, which was measured for the base where that was possible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import gcd
from typing import Any

from dlmbuild.doc.mistakes import nearest, shown
from dlmbuild.errors import DocumentError, HardwareError, InvalidDocument, Where
from dlmbuild.hardware.detect import Machine
from dlmbuild.hardware.quantised import require_quantised

_RECIPE_FIELDS = (
    "learning_rate",
    "num_epochs",
    "micro_batch_size",
    "grad_accum",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "layers",
    "lr_scheduler",
    "warmup_ratio",
    "sequence_len",
    "wordings",
    "retention",
)
CPT_SCHEDULER = "cosine_with_min_lr"
"""transformers' word for the schedule of continued pretraining."""
_CPT_WARMUP = 0.2
_MOSTLY_PROSE = 0.7
"""The share of prose among the rows from which on `training.cpt.schedule: auto` is continued pretraining."""


def plan_of_document(
    training: Mapping[str, Any],
    recipe: Mapping[str, Any],
    base: Mapping[str, Any],
    machine: Machine,
    where: Callable[..., Where],
) -> dict[str, Any]:
    """`resolve_plan` for what a document says under `training`; `where` gives the place of a key by its path.

    Raises InvalidDocument for layers that the base does not have.
    """
    if refused := refused_modules(training, base):
        for path, wrong in refused.items():
            wrong.where = where("training", *path)
        raise InvalidDocument(list(refused.values()))
    try:
        return resolve_plan(training, recipe, base, machine)
    except HardwareError as error:
        error.where = where(*(("training", *error.field.split(".")) if error.field else ("base_model",)))
        raise


def resolve_plan(
    training: Mapping[str, Any], recipe: Mapping[str, Any], base: Mapping[str, Any], machine: Machine
) -> dict[str, Any]:
    """plan.json: every parameter that training takes, with no `auto` left; under `adapters` for each that has a name.

    `base` is the content of base.json. Raises HardwareError for what this machine cannot do.
    """
    if not training.get("adapters"):
        return _resolve(training, recipe, base, machine)
    resolved = {}
    for name, own in training["adapters"].items():
        try:
            resolved[name] = _resolve({**training, **own}, recipe, base, machine)
        except HardwareError as error:
            error.field = f"adapters.{name}.{error.field}" if error.field in own else error.field
            raise
    return {"adapters": resolved}


def _resolve(
    training: Mapping[str, Any], recipe: Mapping[str, Any], base: Mapping[str, Any], machine: Machine
) -> dict[str, Any]:
    require_quantised(training, machine.device)
    plan = {field: training[field] for field in ("adapter", "rslora", "optimizer", "seed")}
    for field in _RECIPE_FIELDS:
        plan[field] = recipe[field] if training[field] == "auto" else training[field]
    if training["sequence_len"] == "auto":  # a recipe for any base may ask for more than this one reads
        plan["sequence_len"] = min(plan["sequence_len"], base["context_length"])
    modules = training["target_modules"]
    # All linear layers: attention alone learns less at the same size (LoRA Without Regret, 2025).
    plan["target_modules"] = sorted(base["linear_layers"] if modules == "auto" else set(modules))
    for field in ("validation", "early_stopping"):
        plan[field] = training[field] or 0
    plan["device"] = machine.device
    plan["precision"] = _precision(training["precision"], machine)
    plan["attention"] = attention(machine.device, plan["precision"])
    plan["gradient_checkpointing"] = False
    plan |= _shared_out(plan, machine.processes)
    plan["threads"] = machine.threads if machine.device == "cuda" else max(1, machine.threads // plan["world_size"])
    if plan["sequence_len"] > base["context_length"]:
        raise HardwareError(
            f"training.sequence_len is {plan['sequence_len']}, the base reads {base['context_length']} at most",
            field="sequence_len",
            do=f"set training.sequence_len to {base['context_length']} or less",
        )
    plan["retention_rows"] = recipe["retention_rows"]
    plan["layers"] = _layers(plan["layers"], base["layers"])
    plan["cpt"] = _cpt(training)
    _refuse_too_large(base, machine, plan)
    preference = training["preference"]
    if preference["enabled"]:
        plan["preference"] = _preference(preference, recipe)
    return plan


def _shared_out(plan: Mapping[str, Any], processes: int) -> dict[str, int]:
    """What each process does of a step, by as many as its rows can be shared out to evenly: a step stays the same."""
    rows, accumulated = plan["micro_batch_size"], plan["grad_accum"]
    world = next(count for count in range(processes, 0, -1) if rows * accumulated % count == 0)
    fewer = gcd(accumulated, world)
    return {"micro_batch_size": rows // (world // fewer), "grad_accum": accumulated // fewer, "world_size": world}


def by_one_process(plan: Mapping[str, Any]) -> dict[str, int]:
    """What a plan says instead where one process takes all the rows of a step."""
    return {"grad_accum": plan["grad_accum"] * plan["world_size"], "world_size": 1}


def _cpt(training: Mapping[str, Any]) -> dict[str, Any]:
    """How much prose counts, and what is put over the plan where it is `dapt_from` of the rows or more."""
    asked = training["cpt"]
    weight = {"weight": asked["weight"]}
    if asked["schedule"] == "sft" or (asked["schedule"] == "auto" and training["lr_scheduler"] != "auto"):
        return weight
    return {
        **weight,
        "dapt_from": 0.0 if asked["schedule"] == "dapt" else _MOSTLY_PROSE,
        "lr_scheduler": CPT_SCHEDULER,
        "warmup_ratio": _CPT_WARMUP if training["warmup_ratio"] == "auto" else training["warmup_ratio"],
    }


def _preference(asked: Mapping[str, Any], recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The values that the second phase puts over those of the first; only what its method uses."""
    values = asked["hyperparams"]
    method = asked["method"]
    phase = {"method": method}
    if method == "dpo":
        phase["loss_type"] = asked["loss_type"]
    if method == "orpo":
        phase["alpha"] = values["alpha"]
    else:
        phase |= {"beta": values["beta"], "reference": asked["reference"]}
    for field in ("learning_rate", "num_epochs"):
        auto = recipe[f"preference_{field.removeprefix('num_')}"]
        phase[field] = auto if values[field] == "auto" else values[field]
    return phase


def refused_modules(
    training: Mapping[str, Any], base: Mapping[str, Any], *within: str
) -> dict[tuple[str | int, ...], DocumentError]:
    """What is wrong with items of target_modules, by the paths of the keys; `base` is as in `resolve_plan`.

    `within` leads to the block that says `training`; what its named adapters say is looked at as well.
    """
    layers: list[str] = base["linear_layers"]
    modules = [] if training["target_modules"] == "auto" else training["target_modules"]
    refused: dict[tuple[str | int, ...], DocumentError] = {}
    for name, own in (training.get("adapters") or {}).items():
        refused |= refused_modules(own, base, *within, "adapters", name)
    key = (*within, "target_modules")
    spelled = ".".join(("training", *key))
    for at, name in enumerate(modules):
        if name not in layers:
            near = nearest(name, layers) or nearest(name.rpartition(".")[2], layers)
            refused[*key, at] = DocumentError(
                f"{spelled} names {shown(name)}, which is no linear layer in the blocks of this base",
                why=f"those are {', '.join(layers) or 'none'}",
                do=f'did you mean "{near}"?'
                if near
                else "write some of these, or delete the key: `auto` is all of them",
            )
    return refused


def _layers(asked: str, there: int) -> str:
    if asked == "all":
        return asked
    count = trained_layers(asked)
    if count > there:
        raise HardwareError(
            f"training.layers asks for the last {count} layers, the base has {there}",
            field="layers",
            do=f"write last {there // 3 or 1}, or any number up to {there}; or `all`",
        )
    return asked if count < there else "all"


def trained_layers(asked: str) -> int:
    """How many of the last layers `training.layers` trains; 0 for all."""
    return 0 if asked == "all" else int(asked.removeprefix("last "))


def first_trained(plan: Mapping[str, Any], layers: int) -> int:
    """The first of a base's layers that a plan trains, from 0; what lies below stays as it was."""
    return layers - (trained_layers(plan["layers"]) or layers)


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


def _refuse_too_large(base: Mapping[str, Any], machine: Machine, plan: Mapping[str, Any]) -> None:
    if machine.device == "cuda":
        return  # what a GPU holds is only known to its driver
    # Weights, and activations and adapter at a small batch; what the rows really need is known when there are rows.
    size = 0.5 if plan["adapter"] == "qlora" else 4 if plan["precision"] == "fp32" else 2
    needed = base["parameters"] * size * 1.3
    if needed > machine.memory_bytes * 0.9:
        raise HardwareError(
            f"training this base takes about {needed / 2**30:.0f} GiB, and the machine has "
            f"{machine.memory_bytes / 2**30:.0f} GiB",
            why="it would be killed, or swap for days",
            do="take a smaller base (base_model: smollm2-135m), or train on a larger machine",
        )


def attention(device: str, precision: str) -> str:
    """How attention is computed: by PyTorch, or `whole`, which is faster in half precision on a CPU (attention.py)."""
    return "whole" if (device, precision) == ("cpu", "bf16") else "sdpa"


WHOLE = 512
"""Tokens up to which the attention `whole` is computed so: what each sees of the others is kept then."""
