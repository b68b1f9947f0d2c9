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
from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.hardware.plan import first_trained
from dlmbuild.io.digest import readable_json
from dlmbuild.io.progress import Progress
from dlmbuild.train.commit import write_version
from dlmbuild.train.cpt import row_weights, scheduled
from dlmbuild.train.determinism import EpochOrder, make_deterministic, rank
from dlmbuild.train.kept import Kept
from dlmbuild.train.model import begin_with, load_base, lora_config, no_processing
from dlmbuild.train.packing import Packing, learned_tokens
from dlmbuild.train.paraphrases import Paraphrases
from dlmbuild.train.prefix import FrozenPrefix
from dlmbuild.train.retention import RetentionSet
from dlmbuild.train.settings import trainer_settings
from dlmbuild.train.validation import Validation
from dlmbuild.train.watch import not_finite, run_to_end, watch, watched
from dlmbuild.train.wordings import as_data, with_wordings


def train(*, dataset: Path, out: Path, progress: Progress, **how: Any) -> dict[str, Any]:
    """`fit` for the rows that the dataset.json at `dataset` names; `how` is the rest of what `fit` is told."""
    progress("loading torch and the base")
    rows = list(read_rows(dataset))
    held = list(read_rows(dataset, held=True))
    index = json.loads(dataset.read_bytes())
    prompt = index.get("system_prompt")
    return fit(rows, index["pad_id"], system_prompt=prompt, held=held, out=out, progress=progress, **how)


def fit(
    rows: list[Row],
    pad_id: int,
    *,
    system_prompt: str | None = None,
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
    """Train and leave the files of an adapter version in `out`; returns the run's numbers.

    `held` are rows that are never trained, only measured; `pad_id` is the token that the base fills up with: here
    nothing is, since rows are packed. `base` is the folder of the pretrained model, `log` the JSONL file to write,
    beside which the wordings of questions go; `states` a folder where what frozen layers give is kept for the next
    training, `retention` what the base says by itself, which the plan holds the model to; its questions are asked after
    the `system_prompt`, as the document's are. With `parent`, the weights of an earlier adapter, training goes on from
    these, on what `warm` says: the numbers of `changed` rows, and how many `beside` them in each epoch. Every
    `checkpoint_seconds` the training's whole state goes below `checkpoints`; if there is one already, training goes on
    from it and ends with the bytes of an uninterrupted run. Raises TrainingError for a loss that is no number.
    """
    plan = scheduled(plan, rows)
    make_deterministic(plan["seed"], plan["threads"], plan["precision"])
    model = load_base(base, plan, pad_id)
    asked = len(rows)
    packing, cache = Packing(model), Kept(states)
    about = depends_on(model, plan, base_identity)
    paraphrased = 0
    numbers = [[number] for number in range(asked)]
    if plan["wordings"] > 1:
        paraphrases = Paraphrases(model, tokenizer := Tokenizer.from_base(base), packing, about, cache)
        embeddings = model.get_input_embeddings().weight
        found = with_wordings(rows, plan, tokenizer, embeddings, paraphrases, progress)
        if not rank():
            log.with_suffix(".wordings.json").write_bytes(readable_json(as_data(rows, found, tokenizer)))
        rows, numbers, paraphrased = found
    first = first_trained(plan, model.config.get_text_config().num_hidden_layers)
    prefix = FrozenPrefix(model, first, about, cache, packing) if first else None
    validation = Validation(held, plan, checkpoints, packing) if held else None
    chosen: tuple[Any, ...] = ()
    if warm:
        chosen = ([number for row in warm["changed"] for number in numbers[row]], warm["beside"] * plan["wordings"])
    beside = watch(
        "training",
        log=log,
        progress=progress,
        order=EpochOrder([len(row.ids) for row in rows], plan, *chosen),
        plan=plan,
        checkpoints=checkpoints,
        checkpoint_seconds=checkpoint_seconds,
        validation=validation,
    )
    kept = RetentionSet.read(retention, plan["seed"]) if retention and plan["retention"] else None
    if kept and system_prompt:
        kept = kept.asked_after(system_prompt, Tokenizer.from_base(base))
    if prefix:
        together = [[rows[at] for at in its] for its in numbers] + [[row] for row in held]
        prefix.take_over([*together, *(kept.groups if kept else ())], progress)
    trainer = _trainer(model, rows, plan, checkpoints, beside, packing, kept)
    if parent:
        begin_with(trainer.model, parent)
    run = {
        **run_to_end(trainer, beside, plan),
        "epochs": round(trainer.state.epoch),
        "rows": asked,
        **({"wordings": len(rows), "paraphrases": paraphrased} if len(rows) > asked else {}),
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
    checkpoints: Path,
    beside: Any,
    packing: Packing,
    kept: RetentionSet | None,
) -> Any:
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    layers = model.config.get_text_config().num_hidden_layers
    weights = row_weights(rows, plan["cpt"]["weight"])
    world = plan["world_size"]
    if world > 1:  # what fills up an epoch
        rows = [*rows, replace(rows[0], given=len(rows[0].ids))]
        weights = [*weights, 0.0]

    def batch_of(examples: list[dict[str, Any]]) -> dict[str, Any]:
        numbers = [example["row"] for example in examples]
        # The trainer counts what is learned in a step.
        labels = torch.tensor([token for number in numbers for token in rows[number].learned], dtype=torch.long)
        return {"rows": torch.tensor(numbers), "labels": labels, "shift_labels": labels}

    class Trainer(watched(SFTTrainer, beside)):  # type: ignore[misc]
        """TRL's trainer with our own loss, over rows that are packed, and our own order."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            numbers = inputs["rows"].tolist()
            texts = self._texts() if kept else []
            both = [*(rows[number] for number in numbers), *(kept.rows[text] for text in texts if kept)]
            asked = [
                *(learned_tokens(rows[number]) for number in numbers),
                *(kept.asked(text) for text in texts if kept),
            ]
            # The trainer divides what is a mean of a batch by the batches of a step, and leaves alone what is a share
            # of the step's tokens.
            tokens = kwargs.get("num_items_in_batch")
            batches = 1 if tokens is None else self.current_gradient_accumulation_steps
            # At least one: what is left of a long prose may be its last token alone, which is foreseen by none.
            tokens = max(1, len(inputs["labels"]) if tokens is None else tokens)
            loss = divergence = torch.zeros((), device=self.args.device)
            for at, likelihood in enumerate(packing.likelihoods(model, both, asked)):
                if at < len(numbers):
                    loss = loss - weights[numbers[at]] * likelihood.sum()
                elif kept:
                    divergence = divergence + kept.divergence(likelihood, texts[at - len(numbers)]).sum()
            loss = world * loss / tokens
            if texts:
                divergence = divergence / sum(len(row.learned) for row in both[len(numbers) :])
                self._metrics["train"]["retention/divergence"].append(divergence.item())
                loss = loss + plan["retention"] / batches * divergence
            if not torch.isfinite(loss):
                raise not_finite("loss", loss.item(), self.state.global_step + 1, plan)
            return loss

        def _texts(self) -> list[int]:
            """Those of the retention set that go along with this batch."""
            assert kept is not None
            step, accumulated = self.state.global_step, plan["grad_accum"]
            self._batch = self._batch + 1 if self._step == step else 0
            self._step = step
            return kept.drawn((step * accumulated + self._batch) * world + rank(), plan["retention_rows"])

        _step, _batch = -1, 0

    config = SFTConfig(
        **trainer_settings(plan, len(beside.order), checkpoints),
        packing=False,
        padding_free=False,
        loss_type="nll",
        completion_only_loss=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = Trainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_dict({"row": list(range(len(rows)))}),
        data_collator=batch_of,
        processing_class=no_processing(),
        peft_config=lora_config(plan, layers),
    )
    assert not trainer.args.packing
    return trainer


def depends_on(model: Any, plan: Mapping[str, Any], base_identity: Mapping[str, Any]) -> dict[str, Any]:
    """All that the base's outputs depend on beside what it is given."""
    import torch

    return {
        "base": base_identity["files"],
        "dtype": str(model.dtype).removeprefix("torch."),
        "attention": model.config.get_text_config()._attn_implementation,
        # What may change the last bit: then it is computed again, and two trainings never differ by their past.
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if plan["device"] == "cuda" else plan["device"],
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "threads": plan["threads"],
        **({"bits": "nf4"} if plan["adapter"] == "qlora" else {}),
    }
