"""Supervised fine-tuning of a LoRA adapter: TRL's SFTTrainer on rows that are already tokens and labels.

One process trains one adapter. Every setting of the trainer that changes the result or the speed is written out here,
because the defaults of trainers change, and some of today's hurt (a learning rate for full fine-tuning, metrics over
the whole vocabulary, activations computed twice to save memory that is not short).
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlmbuild.data.rows import Row
from dlmbuild.data.shards import read_rows
from dlmbuild.errors import TrainingError
from dlmbuild.io.progress import Progress
from dlmbuild.train.commit import write_version
from dlmbuild.train.determinism import EpochOrder, make_deterministic
from dlmbuild.train.state import Checkpoints

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
    kept = Checkpoints(checkpoints)
    watch = _watch(log, progress, rows, plan, kept, checkpoint_seconds)
    trainer = _trainer(_load_base(base, plan, pad_id), rows, plan, pad_id, checkpoints, watch)
    resumed = kept.latest()
    trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    if trainer.state.global_step != trainer.state.max_steps:
        raise TrainingError(f"training ended at step {trainer.state.global_step} of {trainer.state.max_steps}")
    run = {
        "steps": trainer.state.global_step,
        "epochs": plan["num_epochs"],
        "rows": len(rows),
        "tokens": sum(len(row.ids) for row in rows),
        "learned_tokens": sum(len(row.ids) - row.given for row in rows),
        "train_loss": _last_epoch_loss(trainer.state),
        "trained_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
    }
    write_version(trainer, run, plan, base_identity, out)
    return run


def _last_epoch_loss(state: Any) -> float:
    """Mean over the steps of the last epoch, from the history that checkpoints carry along."""
    losses = [float(entry["loss"]) for entry in state.log_history if "loss" in entry]
    last = losses[-max(1, round(len(losses) / state.num_train_epochs)) :]
    return round(sum(last) / len(last), 6)


def _load_base(base: Path, plan: Mapping[str, Any], pad_id: int) -> Any:
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[plan["precision"]]
    model = transformers.AutoModelForCausalLM.from_pretrained(
        base, dtype=dtype, attn_implementation=plan["attention"], local_files_only=True, trust_remote_code=False
    )
    model.config.pad_token_id = pad_id
    model.config.use_cache = False
    return model


def _trainer(model: Any, rows: list[Row], plan: Mapping[str, Any], pad_id: int, checkpoints: Path, watch: Any) -> Any:
    import torch
    import transformers
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    class Trainer(SFTTrainer):  # type: ignore[misc]
        """TRL's trainer with the model's own loss and our own order."""

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
            # TRL's loss also measures entropy and accuracy over the whole vocabulary: a third more time per step.
            loss = transformers.Trainer.compute_loss(self, model, {**inputs, "use_cache": False}, False, **kwargs)
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the loss became {loss.item()} at step {self.state.global_step + 1}",
                    why="the weights are useless from here on; nothing was saved",
                    do="set training.learning_rate lower (half of it), or training.precision to fp32",
                )
            return loss

        def _get_train_sampler(self, *_: Any) -> Any:
            return watch.order

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            transformers.Trainer._save_checkpoint(self, model, trial)  # without TRL's model card
            watch.checkpoints.seal(self.state.global_step)

    precision = plan["precision"]
    config = SFTConfig(
        output_dir=str(checkpoints),
        num_train_epochs=plan["num_epochs"],
        per_device_train_batch_size=plan["micro_batch_size"],
        gradient_accumulation_steps=plan["grad_accum"],
        learning_rate=plan["learning_rate"],
        lr_scheduler_type=plan["lr_scheduler"],
        warmup_steps=plan["warmup_ratio"],
        optim=plan["optimizer"] + "_fused",  # the same optimizer in one kernel
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=plan["seed"],
        data_seed=plan["seed"],
        bf16=precision == "bf16" and plan["device"] == "cuda",
        fp16=precision == "fp16",
        tf32=False if plan["device"] == "cuda" else None,
        use_cpu=plan["device"] == "cpu",
        gradient_checkpointing=plan["gradient_checkpointing"],
        max_length=None,  # rows were measured when they were made: nothing may be cut off here
        packing=False,
        padding_free=False,
        loss_type="nll",
        completion_only_loss=False,  # the labels say it already
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=plan["device"] == "cuda",
        dataloader_drop_last=False,
        logging_strategy="steps",
        logging_steps=1,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="no",  # the watch asks for checkpoints by the clock
        eval_strategy="no",
        report_to="none",
        disable_tqdm=True,
        load_best_model_at_end=False,
    )
    lora = LoraConfig(
        r=plan["lora_r"],
        lora_alpha=plan["lora_alpha"],
        lora_dropout=plan["lora_dropout"],
        target_modules=list(plan["target_modules"]),
        bias="none",
        task_type="CAUSAL_LM",
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
        processing_class=_no_processing(pad_id),
        peft_config=lora,
    )
    # TRL's own progress printing goes to the log of the job; ours is the one that people see.
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    trainer.add_callback(watch)
    _assert_effective(trainer, plan)
    return trainer


def _no_processing(pad_id: int) -> Any:
    """A tokenizer for a trainer that insists on one: rows are tokens already, so it is never asked to encode."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words)), pad_token="<pad>")


def _watch(
    log: Path,
    progress: Progress,
    rows: list[Row],
    plan: Mapping[str, Any],
    checkpoints: Checkpoints,
    checkpoint_seconds: float,
) -> Any:
    """A trainer callback: the rows' order, checkpoints by the clock, a JSON line per step, and how far training is."""
    from transformers import TrainerCallback

    tokens_per_epoch = sum(len(row.ids) for row in rows)

    class Watch(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.order = EpochOrder([len(row.ids) for row in rows], plan["micro_batch_size"], plan["seed"])
            self.checkpoints = checkpoints

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.started, self.cpu = time.monotonic(), time.process_time()
            self.saved, self.first_step = self.started, state.global_step
            if state.global_step:
                progress(f"resuming at step {state.global_step}")
            progress("training", 0, state.max_steps)

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            # The loader that a resumed epoch begins with does not pass its number on.
            self.order.set_epoch(state.global_step * plan["num_epochs"] // state.max_steps)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            now = time.monotonic()
            if now - self.saved >= checkpoint_seconds and state.global_step < state.max_steps:
                self.saved = now
                control.should_save = True

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
            if "loss" not in logs:
                return
            elapsed = time.monotonic() - self.started
            share = (state.global_step - self.first_step) / state.max_steps
            tokens = tokens_per_epoch * share * plan["num_epochs"]
            line = {
                "step": state.global_step,
                "epoch": round(state.epoch, 4),
                "loss": float(logs["loss"]),
                "learning_rate": float(logs["learning_rate"]),
                "grad_norm": float(logs["grad_norm"]),
                "tokens_per_s": round(tokens / elapsed, 1),
                "elapsed_s": round(elapsed, 2),
            }
            self.write(line)
            if not math.isfinite(line["grad_norm"]):
                raise TrainingError(
                    f"the gradient is not a number at step {state.global_step}",
                    why="the next weights would be useless; nothing was saved",
                    do="set training.learning_rate lower (half of it)",
                )
            progress("training", state.global_step, state.max_steps, loss=line["loss"], tok_s=line["tokens_per_s"])

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            cpu, tokens = time.process_time() - self.cpu, tokens_per_epoch * plan["num_epochs"]
            self.write({"steps": state.global_step, "tokens": tokens, "cpu_s": round(cpu, 2), "from": self.first_step})

        def write(self, line: dict[str, Any]) -> None:
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    return Watch()


def _assert_effective(trainer: Any, plan: Mapping[str, Any]) -> None:
    """Third-party defaults have won over what was asked for before; a trainer that differs from the plan is a bug."""
    args = trainer.args
    wanted = {
        "learning_rate": plan["learning_rate"],
        "num_train_epochs": plan["num_epochs"],
        "per_device_train_batch_size": plan["micro_batch_size"],
        "gradient_accumulation_steps": plan["grad_accum"],
        "gradient_checkpointing": plan["gradient_checkpointing"],
        "max_length": None,
        "packing": False,
    }
    for name, value in wanted.items():
        assert getattr(args, name) == value, (name, getattr(args, name), value)
    lora = trainer.model.peft_config["default"]
    assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (plan["lora_r"], plan["lora_alpha"], plan["lora_dropout"])
    assert len(trainer.train_dataset) > 0
