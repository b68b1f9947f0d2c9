"""Preference training: an adapter that answers is taught which of two answers is the better one.

DPO (Rafailov et al. 2023, arXiv 2305.18290) through TRL's DPOTrainer, on rows that are already tokens. What the
reference model says of a row is computed once before the first step: no second model is kept, and an epoch costs half.
ORPO (Hong et al. 2024, arXiv 2403.07691) has no reference; its loss is a few lines on the same batches, with the
likelihood of the chosen answer (not of the prompt) as its first term.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlmbuild.data.pairs import PairRow, read_pairs
from dlmbuild.io.progress import Progress
from dlmbuild.train.commit import write_version
from dlmbuild.train.determinism import make_deterministic
from dlmbuild.train.model import load_base, no_processing, with_adapter
from dlmbuild.train.settings import trainer_settings
from dlmbuild.train.state import Checkpoints
from dlmbuild.train.watch import not_finite, run_to_end, watch, watched

_METRICS = {"rewards/margins": "margin", "rewards/accuracies": "accuracy"}


def prefer(
    *,
    base: Path,
    adapter: Path,
    pairs: Path,
    log: Path,
    checkpoints: Path,
    plan: Mapping[str, Any],
    base_identity: Mapping[str, Any],
    checkpoint_seconds: float,
    out: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Train the adapter of an earlier phase further and leave a version's files in `out`; returns the run's numbers.

    `pairs` is the path of preference.json; `plan` the document's, with the preference phase's own values put over it.
    Checkpoints work as in supervised training: what was interrupted ends with the bytes of what was not.
    """
    progress("loading torch, the base and the adapter")
    make_deterministic(plan["seed"], plan["threads"], plan["precision"])
    rows, pad_id = read_pairs(pairs)
    beside = watch(
        "preference training",
        log=log,
        progress=progress,
        lengths=[row.length for row in rows],
        plan=plan,
        checkpoints=Checkpoints(checkpoints),
        checkpoint_seconds=checkpoint_seconds,
        metrics=_METRICS,
    )
    model = with_adapter(load_base(base, plan, pad_id), base, adapter)
    trainer = _trainer(model, rows, plan, pad_id, checkpoints, beside)
    run = {
        **run_to_end(trainer, beside, plan),
        **{f"last_{name}": value for name, value in beside.latest.items()},
        "epochs": plan["num_epochs"],
        "rows": len(rows),
        "tokens": sum(row.length for row in rows),
        "method": plan["method"],
    }
    write_version(trainer, run, plan, base_identity, out)
    return run


def _trainer(
    model: Any, rows: list[PairRow], plan: Mapping[str, Any], pad_id: int, checkpoints: Path, beside: Any
) -> Any:
    import torch
    from datasets import Dataset
    from torch.nn.functional import logsigmoid
    from trl import DPOConfig, DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    orpo = plan["method"] == "orpo"

    class Trainer(watched(DPOTrainer, beside)):  # type: ignore[misc]
        """TRL's trainer on rows that are tokens, in our own order, without a copy of the model to compare with."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            loss = self._odds_ratio_loss(model, inputs) if orpo else self._compute_loss(model, inputs, False)
            if not torch.isfinite(loss):
                raise not_finite("loss", loss.item(), self.state.global_step + 1, plan)
            return loss

        def _odds_ratio_loss(self, model: Any, inputs: Any) -> Any:
            mask = inputs["completion_mask"]
            labels = inputs["input_ids"].masked_fill(mask == 0, -100)
            kept = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            logps = model(**kept, labels=labels, fused_lm_head=True, use_cache=False).log_probs.sum(dim=1)
            chosen, rejected = (logps / mask.sum(dim=1)).chunk(2)  # per token, so that length does not decide
            odds = (chosen - rejected) - (torch.log1p(-chosen.exp()) - torch.log1p(-rejected.exp()))
            self._metrics["train"]["rewards/margins"].append(odds.detach().mean().item())
            self._metrics["train"]["rewards/accuracies"].append((odds.detach() > 0).float().mean().item())
            return -chosen.mean() - plan["alpha"] * logsigmoid(odds).mean()

    table = Dataset.from_dict(
        {
            "prompt_ids": [list(row.prompt) for row in rows],
            "chosen_ids": [list(row.chosen) for row in rows],
            "rejected_ids": [list(row.rejected) for row in rows],
        }
    )
    collate = DataCollatorForPreference(pad_token_id=pad_id, max_length=None)
    trainer = Trainer(
        model=model,
        args=DPOConfig(
            **trainer_settings(plan, len(rows), checkpoints),
            **({} if orpo else {"beta": plan["beta"], "loss_type": plan["loss_type"]}),
            disable_dropout=True,
            precompute_ref_log_probs=False,
        ),
        train_dataset=table,
        data_collator=collate,
        processing_class=no_processing(pad_id),
    )
    # TRL keeps a frozen copy of the adapter to compare with. What the reference says is computed here, once.
    if orpo or plan["reference"] == "base":
        trainer.model.delete_adapter("ref")
    if not orpo:
        trainer.train_dataset = _with_reference(trainer, collate)
        trainer.precompute_ref_logps = True
    if "ref" in trainer.model.peft_config:
        trainer.model.delete_adapter("ref")
    return trainer


def _with_reference(trainer: Any, collate: Any) -> Any:
    """The rows with what the reference says of both answers: the adapter as it came, or without its copy the base."""
    chosen, rejected = [], []
    for row in trainer.train_dataset:
        batch = trainer._prepare_inputs(collate([row]))
        first, second = trainer.compute_ref_log_probs(trainer.model, batch)
        chosen.append(first.item())
        rejected.append(second.item())
    return trainer.train_dataset.add_column("ref_chosen_logps", chosen).add_column("ref_rejected_logps", rejected)
