"""The files of an adapter version, written so that the same training gives the same bytes.

adapter_config.json          PEFT's configuration, canonical, naming the base by identity, never by a local path
adapter_model.safetensors    the LoRA weights
training_state.pt            optimizer, scheduler, random generators and position; loads with weights_only=True
training_state.pt.sha256     its digest, against a damaged disk
training_run.json            what the run was and how it went, without times (those are in manifest.json and logs/)
pinned_versions.json         the packages that did it
adapter.json                 what the version holds, for the steps that follow (beside the versions, not in them)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlmbuild.errors import TrainingError
from dlmbuild.hardware.quantised import libraries
from dlmbuild.io.digest import readable_json, sha256_file
from dlmbuild.lock.capture import TRAINING_PINS, pins
from dlmbuild.train.determinism import random_state
from dlmbuild.train.model import adapter_weights


def write_version(
    trainer: Any, run: Mapping[str, Any], plan: Mapping[str, Any], base: Mapping[str, Any], out: Path
) -> None:
    """Write the version's files into `out`. Raises TrainingError if a weight is not a finite number."""
    _write_weights(trainer.model, out)
    _write_config(trainer.model, base, out)
    _write_state(trainer, out)
    (out / "training_run.json").write_bytes(readable_json({"run": run, "plan": dict(plan), "base": dict(base)}))
    (out / "pinned_versions.json").write_bytes(readable_json(pins((*TRAINING_PINS, *libraries(plan)))))
    files = ("adapter_config.json", "adapter_model.safetensors")
    described = {"base": dict(base), "files": {name: sha256_file(out / name) for name in files}}
    if "warm" in run:
        described["warm"] = {**run["warm"], "steps": run["steps"]}
    (out / "adapter.json").write_bytes(readable_json(described))


def _write_weights(model: Any, out: Path) -> None:
    import torch
    from safetensors.torch import save

    weights = adapter_weights(model)
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            raise TrainingError(
                f"{name} holds values that are not numbers",
                why="the adapter would be useless; nothing was saved",
                do="set training.learning_rate lower (half of it)",
            )
    (out / "adapter_model.safetensors").write_bytes(save(weights, metadata={"format": "pt"}))


def _write_config(model: Any, base: Mapping[str, Any], out: Path) -> None:
    config = model.peft_config["default"].to_dict()
    # PEFT writes sets in hash order and the path it loaded the base from: neither is reproducible.
    config = {name: sorted(v) if isinstance(v, set) else v for name, v in config.items()}
    config["target_modules"] = sorted(config["target_modules"])
    config["base_model_name_or_path"] = base["name"]
    config["revision"] = base["revision"]
    config["inference_mode"] = True
    plain = json.loads(json.dumps(config, default=lambda value: getattr(value, "value", str(value))))
    (out / "adapter_config.json").write_bytes(readable_json(plain))


def _fresh(value: Any) -> Any:
    """The same data in new containers: pickle writes an object that it has seen before as a reference to it.

    Which strings and lists are one object differs between a training that ran through and one that was resumed.
    """
    if isinstance(value, dict):
        return {_fresh(key): _fresh(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_fresh, value))
    return sys.intern(value) if type(value) is str else value


def _write_state(trainer: Any, out: Path) -> None:
    import torch

    state = {
        "optimizer": trainer.optimizer.state_dict(),
        "scheduler": trainer.lr_scheduler.state_dict(),
        "random": random_state(),
        "position": {"step": trainer.state.global_step, "epoch": trainer.state.epoch},
    }
    file = out / "training_state.pt"
    torch.save(_fresh(state), file)
    torch.load(file, weights_only=True)  # a state that only unpickling could read must never be written
    (out / "training_state.pt.sha256").write_text(f"{sha256_file(file)}  training_state.pt\n")
