"""Preference training: an adapter that answers is taught which of two answers is the better one.

DPO (Rafailov et al. 2023, arXiv 2305.18290) through TRL's DPOTrainer, on rows that are already tokens. What the
reference model says of a row is computed once before the first step: no second model is kept, and an epoch costs half.
ORPO (Hong et al. 2024, arXiv 2403.07691) has no reference; its loss is a few lines on the same batches, with the
likelihood of the chosen answer (not of the prompt) as its first term.
KTO (Ethayarajh et al. 2024, arXiv 2402.01306) takes each answer by itself, as a desirable or an undesirable one; its
loss is a few lines on the same batches, too, and gives what TRL's KTOTrainer gives. Both estimate how far the model is
from the reference on answers that do not belong to their prompts. KTOTrainer exchanges the answers of a batch for that,
so it wants two rows in each, and the same ones in every epoch; here they are those of the next other prompt of the
dataset (`mismatched`), so that one row is enough, in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dlmbuild.data.pairs import PairRow, read_pairs
from dlmbuild.io.progress import Progress
from dlmbuild.train.commit import write_version
from dlmbuild.train.determinism import EpochOrder, make_deterministic
from dlmbuild.train.model import load_base, no_processing, with_adapter
from dlmbuild.train.settings import trainer_settings
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
        order=EpochOrder([row.length for row in rows], plan),
        plan=plan,
        checkpoints=checkpoints,
        checkpoint_seconds=checkpoint_seconds,
        metrics=_METRICS,
    )
    model = with_adapter(load_base(base, plan, pad_id), base, adapter, plan)
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
    from torch.nn.functional import logsigmoid
    from trl import DPOConfig, DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    method = plan["method"]
    # No row is longer; a prompt with another one's answer may be, and is cut off there.
    collate = DataCollatorForPreference(pad_token_id=pad_id, max_length=plan["sequence_len"])

    class Trainer(watched(DPOTrainer, beside)):  # type: ignore[misc]
        """TRL's trainer on rows that are tokens, in our own order, without a copy of the model to compare with."""

        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            own = {"orpo": self._orpo_loss, "kto": self._kto_loss}.get(method)
            loss = own(model, inputs) if own else self._compute_loss(model, inputs, False)
            if not torch.isfinite(loss):
                raise not_finite("loss", loss.item(), self.state.global_step + 1, plan)
            return loss

        def _orpo_loss(self, model: Any, inputs: Any) -> Any:
            lengths = inputs["completion_mask"].sum(dim=1)
            chosen, rejected = (self._logps(model, inputs) / lengths).chunk(2)  # so that length does not decide
            odds = (chosen - rejected) - (torch.log1p(-chosen.exp()) - torch.log1p(-rejected.exp()))
            self._note(odds)
            return -chosen.mean() - plan["alpha"] * logsigmoid(odds).mean()

        def _kto_loss(self, model: Any, inputs: Any) -> Any:
            with torch.no_grad():
                divergence = self._log_ratios(model, inputs["mismatched"]).mean().clamp(min=0)
            chosen, rejected = (plan["beta"] * (self._log_ratios(model, inputs) - divergence)).chunk(2)
            self._note(chosen - rejected)
            return 1 - torch.cat([chosen, -rejected]).sigmoid().mean()

        def _log_ratios(self, model: Any, inputs: Any) -> Any:
            return self._logps(model, inputs) - torch.cat([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]])

        def _logps(self, model: Any, inputs: Any) -> Any:
            """What the model says of each answer of a batch: of the chosen ones, then of the rejected ones."""
            labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
            kept = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            return model(**kept, labels=labels, fused_lm_head=True, use_cache=False).log_probs.sum(dim=1)

        def _note(self, margins: Any) -> None:
            self._metrics["train"]["rewards/margins"].append(margins.detach().mean().item())
            self._metrics["train"]["rewards/accuracies"].append((margins.detach() > 0).float().mean().item())

    trainer = Trainer(
        model=model,
        args=DPOConfig(
            **trainer_settings(plan, len(rows), checkpoints),
            **{name: plan[name] for name in ("beta", "loss_type") if name in plan},
            disable_dropout=True,
            precompute_ref_log_probs=False,
        ),
        train_dataset=_table(rows),
        data_collator=collate,
        processing_class=no_processing(),
    )
    # TRL keeps a frozen copy of the adapter to compare with. What the reference says is computed here, once.
    if method == "orpo" or plan["reference"] == "base":
        trainer.model.delete_adapter("ref")
    if method != "orpo":
        trainer.train_dataset = _with_reference(trainer, trainer.train_dataset, collate)
        trainer.precompute_ref_logps = True
    if method == "kto":
        others = _with_reference(trainer, _table(mismatched(rows)), collate)
        trainer.train_dataset = trainer.train_dataset.add_column("mismatched", list(others))
        trainer.data_collator = lambda batch: {
            **collate(batch),
            "mismatched": collate([row["mismatched"] for row in batch]),
        }
    if "ref" in trainer.model.peft_config:
        trainer.model.delete_adapter("ref")
    return trainer


def mismatched(rows: Sequence[PairRow]) -> list[PairRow]:
    """Each row's prompt with the answers of the next row that has another prompt; behind the last row is the first.

    If all have the same prompt there is nothing that does not match, and it is the answers of the first row.
    """
    found, other = list(rows), rows[0]
    for at in reversed(range(2 * len(rows))):  # twice around: what the last rows look for may stand at the beginning
        row, following = rows[at % len(rows)], rows[(at + 1) % len(rows)]
        if row.prompt != following.prompt:
            other = following
        found[at % len(rows)] = replace(row, chosen=other.chosen, rejected=other.rejected)
    return found


def _table(rows: Sequence[PairRow]) -> Any:
    from datasets import Dataset

    return Dataset.from_list([{f"{name}_ids": ids for name, ids in row.as_data().items()} for row in rows])


def _with_reference(trainer: Any, table: Any, collate: Any) -> Any:
    """The rows with what the reference says of both answers: the adapter as it came, or without its copy the base."""
    chosen, rejected = [], []
    for row in table:
        batch = trainer._prepare_inputs(collate([row]))
        first, second = trainer.compute_ref_log_probs(trainer.model, batch)
        chosen.append(first.item())
        rejected.append(second.item())
    return table.add_column("ref_chosen_logps", chosen).add_column("ref_rejected_logps", rejected)
