"""Supervised fine-tuning of a LoRA adapter: TRL's SFTTrainer on rows that are already tokens and labels.

One process trains one adapter.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlmbuild.data.rows import Row
from dlmbuild.data.shards import read_rows
from dlmbuild.io.progress import Progress
from dlmbuild.train.commit import write_version
from dlmbuild.train.determinism import make_deterministic
from dlmbuild.train.model import load_base, lora_config, no_processing
from dlmbuild.train.settings import trainer_settings
from dlmbuild.train.state import Checkpoints
from dlmbuild.train.watch import not_finite, run_to_end, watch, watched

_IGNORED = -100
"""The label that torch's cross entropy leaves out."""


def train(
    *,
    base: Path,
    dataset: Path,
    log: Path,
    checkpoints: Path,
    plan: Mapping[str, Any],
    base_identity: Mapping[str, Any],
    checkpoint_seconds: float,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Train and leave the files of an adapter version in `out`; returns the run's numbers.

    `base` is the folder of the pretrained model, `dataset` the path of dataset.json, `log` the JSONL file to write.
    Every `checkpoint_seconds` the training's whole state goes below `checkpoints`; if there is one already, training
    goes on from it and ends with the bytes of an uninterrupted run. Raises TrainingError for a loss that is no number.
    """
    progress("loading torch and the base")
    rows = list(read_rows(dataset))
    pad_id = json.loads(dataset.read_bytes())["pad_id"]
    return fit(
        rows,
        pad_id,
        base=base,
        log=log,
        checkpoints=checkpoints,
        plan=plan,
        base_identity=base_identity,
        checkpoint_seconds=checkpoint_seconds,
        out=out,
        progress=progress,
    )


def fit(
    rows: list[Row],
    pad_id: int,
    *,
    base: Path,
    log: Path,
    checkpoints: Path,
    plan: Mapping[str, Any],
    base_identity: Mapping[str, Any],
    checkpoint_seconds: float,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """`train` for rows at hand; `pad_id` is the token that shorter rows of a batch are filled up with."""
    make_deterministic(plan["seed"], plan["threads"])
    beside = watch(
        "training",
        log=log,
        progress=progress,
        lengths=[len(row.ids) for row in rows],
        plan=plan,
        checkpoints=Checkpoints(checkpoints),
        checkpoint_seconds=checkpoint_seconds,
    )
    trainer = _trainer(load_base(base, plan, pad_id), rows, plan, pad_id, checkpoints, beside)
    run = {
        **run_to_end(trainer, beside, plan),
        "epochs": plan["num_epochs"],
        "rows": len(rows),
        "tokens": sum(len(row.ids) for row in rows),
        "learned_tokens": sum(len(row.ids) - row.given for row in rows),
    }
    write_version(trainer, run, plan, base_identity, out)
    return run


def _trainer(model: Any, rows: list[Row], plan: Mapping[str, Any], pad_id: int, checkpoints: Path, beside: Any) -> Any:
    import torch
    import transformers
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    class Trainer(watched(SFTTrainer, beside)):  # type: ignore[misc]
        """TRL's trainer with the model's own loss and our own order."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            # TRL's loss also measures entropy and accuracy over the whole vocabulary: a third more time per step.
            loss = transformers.Trainer.compute_loss(self, model, {**inputs, "use_cache": False}, False, **kwargs)
            if not torch.isfinite(loss):
                raise not_finite("loss", loss.item(), self.state.global_step + 1, plan)
            return loss

    config = SFTConfig(
        **trainer_settings(plan, len(rows), checkpoints),
        packing=False,
        padding_free=False,
        loss_type="nll",
        completion_only_loss=False,  # the labels say it already
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    table = Dataset.from_dict(
        {
            "input_ids": [list(row.ids) for row in rows],
            "labels": [[_IGNORED] * row.given + list(row.ids[row.given :]) for row in rows],
        }
    )
    trainer = Trainer(
        model=model,
        args=config,
        train_dataset=table,
        data_collator=DataCollatorForLanguageModeling(pad_token_id=pad_id),
        processing_class=no_processing(pad_id),
        peft_config=lora_config(plan),
    )
    assert not trainer.args.packing
    return trainer
