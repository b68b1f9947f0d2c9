"""Supervised fine-tuning of a LoRA adapter: TRL's SFTTrainer on rows that are already tokens and labels.

Several processes (jobs/ranks.py) train one adapter, each on its share of every step; the first of them writes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dlmbuild.data.rows import Row
from dlmbuild.data.shards import read_rows
from dlmbuild.hardware.plan import first_trained
from dlmbuild.io.progress import Progress
from dlmbuild.train.commit import write_version
from dlmbuild.train.cpt import row_weights, scheduled, weighted_loss
from dlmbuild.train.determinism import EpochOrder, make_deterministic, rank
from dlmbuild.train.model import begin_with, load_base, lora_config, no_processing
from dlmbuild.train.prefix import FrozenPrefix
from dlmbuild.train.retention import RetentionSet
from dlmbuild.train.settings import trainer_settings
from dlmbuild.train.state import Checkpoints
from dlmbuild.train.validation import Validation
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
    states: Path | None = None,
    retention: Path | None = None,
    parent: Path | None = None,
    warm: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train and leave the files of an adapter version in `out`; returns the run's numbers.

    `base` is the folder of the pretrained model, `dataset` the path of dataset.json, `log` the JSONL file to write;
    `states` a folder where what frozen layers give is kept for the next training, `retention` what the base says by
    itself, which the plan holds the model to. With `parent`, the weights of an earlier adapter, training goes on from
    these, on what `warm` says: the numbers of `changed` rows, and how many `beside` them in each epoch. Every
    `checkpoint_seconds` the training's whole state goes below `checkpoints`; if there is one already, training goes on
    from it and ends with the bytes of an uninterrupted run. Raises TrainingError for a loss that is no number.
    """
    progress("loading torch and the base")
    rows = list(read_rows(dataset))
    held = list(read_rows(dataset, held=True))
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
        states=states,
        retention=retention,
        held=held,
        parent=parent,
        warm=warm,
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
    states: Path | None = None,
    retention: Path | None = None,
    held: Sequence[Row] = (),
    parent: Path | None = None,
    warm: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """`train` for rows at hand, of which `held` are never trained, only measured.

    `pad_id` is the token that shorter rows of a batch are filled up with.
    """
    plan = scheduled(plan, rows)
    make_deterministic(plan["seed"], plan["threads"])
    model = load_base(base, plan, pad_id)
    prefix = frozen_prefix(model, plan, base_identity, states)
    give = prefix.give if prefix else lambda _: None
    validation = Validation(held, plan, pad_id, checkpoints, give) if held else None
    lengths = [len(row.ids) for row in rows]
    chosen = (warm["changed"], warm["beside"]) if warm else ()
    order = EpochOrder(lengths, plan, *chosen)
    beside = watch(
        "training",
        log=log,
        progress=progress,
        lengths=lengths,
        order=order,
        plan=plan,
        checkpoints=Checkpoints(checkpoints),
        checkpoint_seconds=checkpoint_seconds,
        validation=validation,
    )
    kept = RetentionSet.read(retention, plan["seed"]) if retention and plan["retention"] else None
    if prefix:
        prefix.take_over([row.ids for row in (*rows, *held, *(kept.rows if kept else ()))], progress)
    trainer = _trainer(model, rows, plan, pad_id, checkpoints, beside, prefix, kept)
    if parent:
        begin_with(trainer.model, parent)
    run = {
        **run_to_end(trainer, beside, plan),
        "epochs": round(trainer.state.epoch),
        "rows": len(rows),
        "tokens": sum(len(row.ids) for row in rows),
        "learned_tokens": sum(len(row.ids) - row.given for row in rows),
        "lr_scheduler": plan["lr_scheduler"],
        **({"rows_computed": prefix.computed} if prefix else {}),
        **({"retention_rows": len(kept.rows)} if kept else {}),
        **({"warm": {"changed_rows": len(warm["changed"]), "chain": warm["chain"]}} if warm else {}),
    }
    if validation:
        run |= validation.finish(trainer.model, run["epochs"])
    if not rank():
        write_version(trainer, run, plan, base_identity, out)
    return run


def _trainer(
    model: Any,
    rows: list[Row],
    plan: Mapping[str, Any],
    pad_id: int,
    checkpoints: Path,
    beside: Any,
    prefix: FrozenPrefix | None,
    kept: RetentionSet | None,
) -> Any:
    import torch
    import transformers
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    pad = DataCollatorForLanguageModeling(pad_token_id=pad_id)
    layers = model.config.get_text_config().num_hidden_layers
    weights = row_weights(rows, plan["cpt"]["weight"])
    world = plan["world_size"]
    if world > 1:  # what fills up an epoch
        rows = [*rows, replace(rows[0], given=len(rows[0].ids))]
        weights = [*weights, 0.0] if weights else None

    def batch_of(examples: list[dict[str, Any]]) -> dict[str, Any]:
        return {**pad(examples), "rows": torch.tensor([example["row"] for example in examples])}

    class Trainer(watched(SFTTrainer, beside)):  # type: ignore[misc]
        """TRL's trainer with the model's own loss and our own order."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            numbers = inputs.pop("rows").tolist()
            if prefix:
                prefix.give([rows[number].ids for number in numbers])
            # Logits only where some row of the batch learns: over a large vocabulary they are a third of the work.
            targets = inputs["labels"].roll(-1, dims=1)
            targets[:, -1] = _IGNORED
            learned = (targets != _IGNORED).any(dim=0).nonzero()[:, 0]
            asked = {"logits_to_keep": learned, "shift_labels": targets[:, learned], "use_cache": False}
            if weights:
                whole = {name: inputs[name] for name in ("input_ids", "attention_mask")}
                logits = model(**whole, logits_to_keep=learned, use_cache=False).logits
                of_rows = torch.tensor([weights[number] for number in numbers], device=logits.device)
                tokens = kwargs.get("num_items_in_batch")
                loss = world * weighted_loss(logits, asked["shift_labels"], of_rows, tokens, _IGNORED)
            else:
                # TRL's loss also measures entropy and accuracy over the whole vocabulary: a third more time per step.
                loss = transformers.Trainer.compute_loss(self, model, {**inputs, **asked}, False, **kwargs)
            if kept:
                # The trainer divides what is a mean of a batch by the batches of a step, and leaves alone what is
                # a share of the step's tokens.
                batches = (
                    self.current_gradient_accumulation_steps if kwargs.get("num_items_in_batch") is not None else 1
                )
                loss = loss + plan["retention"] / batches * self._divergence(model, kept)
            if not torch.isfinite(loss):
                raise not_finite("loss", loss.item(), self.state.global_step + 1, plan)
            return loss

        def _divergence(self, model: Any, kept: RetentionSet) -> Any:
            step, accumulated = self.state.global_step, plan["grad_accum"]
            self._batch = self._batch + 1 if self._step == step else 0
            self._step = step
            texts = kept.drawn((step * accumulated + self._batch) * world + rank(), plan["retention_rows"])
            if prefix:
                prefix.give([kept.rows[text].ids for text in texts])
            inputs = self._prepare_inputs(pad([{"input_ids": list(kept.rows[text].ids)} for text in texts]))
            first = min(kept.rows[text].given for text in texts) - 1
            where = torch.arange(first, inputs["input_ids"].shape[1], device=inputs["input_ids"].device)
            asked = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            logits = model(**asked, logits_to_keep=where, use_cache=False).logits
            divergence = kept.divergence(logits, texts, first)
            self._metrics["train"]["retention/divergence"].append(divergence.item())
            return divergence

        _step, _batch = -1, 0

    config = SFTConfig(
        **trainer_settings(plan, len(beside.order), checkpoints),
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
            "row": list(range(len(rows))),
        }
    )
    trainer = Trainer(
        model=model,
        args=config,
        train_dataset=table,
        data_collator=batch_of,
        processing_class=no_processing(pad_id),
        peft_config=lora_config(plan, layers),
    )
    assert not trainer.args.packing
    return trainer


def frozen_prefix(
    model: Any, plan: Mapping[str, Any], base_identity: Mapping[str, Any], folder: Path | None
) -> FrozenPrefix | None:
    """The layers of a base that a plan leaves as they are; None where there are none."""
    import torch

    config = model.config.get_text_config()
    first = first_trained(plan, config.num_hidden_layers)
    if not first:
        return None
    about = {
        "base": base_identity["files"],
        "width": config.hidden_size,
        "dtype": str(model.dtype).removeprefix("torch."),
        # What may change the last bit: then it is computed again, and two trainings never differ by their past.
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if plan["device"] == "cuda" else plan["device"],
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "threads": plan["threads"],
        **({"bits": "nf4"} if plan["adapter"] == "qlora" else {}),
    }
    return FrozenPrefix(model, first, about, folder)
