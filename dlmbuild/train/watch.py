"""What happens beside the steps of a training: the rows' order, checkpoints by the clock, a log, and how far it is.

Where several processes train one adapter each of them watches, and the first one alone writes.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dlmbuild.errors import TrainingError
from dlmbuild.io.progress import Progress
from dlmbuild.train.determinism import EpochOrder, rank
from dlmbuild.train.settings import assert_effective
from dlmbuild.train.state import Checkpoints
from dlmbuild.train.validation import Validation


def watch(
    what: str,
    *,
    log: Path,
    progress: Progress,
    order: EpochOrder,
    plan: Mapping[str, Any],
    checkpoints: Path,
    checkpoint_seconds: float,
    metrics: Mapping[str, str] = MappingProxyType({}),
    validation: Validation | None = None,
) -> Any:
    """A callback for transformers' trainers.

    `what` is the word for the phase, `order` that of the rows, `metrics` the trainer's own numbers that belong into the
    progress line: their names → the words for them there. With `validation` what is held out is measured after each
    epoch, and the training may end before its time.
    """
    from accelerate.utils import broadcast_object_list
    from transformers import TrainerCallback

    rows_per_step = plan["micro_batch_size"] * plan["grad_accum"] * plan["world_size"]

    class Watch(TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.order = order
            self.checkpoints = Checkpoints(checkpoints)
            self.latest: dict[str, float] = {}
            self.measured: dict[str, float] = {}
            self.stopped = False

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.started, self.cpu = time.monotonic(), time.process_time()
            self.saved, self.first_step = self.started, state.global_step
            self.write({"event": "begin", "from": state.global_step, "of": state.max_steps})
            if state.global_step:
                progress(f"resuming at step {state.global_step}")
            progress(what, 0, state.max_steps)

        def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            # The loader that a resumed epoch begins with does not pass its number on.
            self.epoch = state.global_step * plan["num_epochs"] // state.max_steps
            order.set_epoch(self.epoch)
            self.before = sum(map(order.tokens, range(self.epoch)))
            self.within_epoch = [0, *accumulate(order.lengths[row] for row in order)]
            if state.global_step == self.first_step:
                self.first_tokens = self.tokens_until(state)

        def tokens_until(self, state: Any) -> int:
            # TRL's own count begins at 0 again when a training is resumed.
            rows: int = (state.global_step - self.epoch * state.max_steps // plan["num_epochs"]) * rows_per_step
            return int(self.before + self.within_epoch[min(rows, len(order))])

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            epochs, rest = divmod(state.global_step * plan["num_epochs"], state.max_steps)
            if validation and not rest:  # before the checkpoint: who resumes from it need not look back
                found, self.stopped = validation.measure(kwargs["model"], epochs)
                self.measured = {f"eval_{name}": loss for name, loss in found.items()}
                if self.stopped:
                    control.should_training_stop = True
                    return
            ended = time.monotonic()
            due = ended - self.saved >= checkpoint_seconds and state.global_step < state.max_steps
            if broadcast_object_list([due])[0]:  # by the clock of the first process
                self.saved = ended
                control.should_save = True

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **kwargs: Any) -> None:
            if "loss" not in logs:
                return
            elapsed = time.monotonic() - self.started
            tokens = self.tokens_until(state)
            self.latest = {name: round(float(logs[source]), 6) for source, name in metrics.items() if source in logs}
            line = {
                "step": state.global_step,
                "epoch": round(state.epoch, 4),
                "loss": float(logs["loss"]),
                **{name: float(value) for name, value in logs.items() if "/" in name},  # TRL's, of preferences
                **self.measured,
                "learning_rate": float(logs["learning_rate"]),
                "grad_norm": float(logs["grad_norm"]),
                "num_tokens": tokens,
                "tokens_per_s": round((tokens - self.first_tokens) / elapsed, 1),
                "elapsed_s": round(elapsed, 2),
            }
            self.write(line)
            if not math.isfinite(line["grad_norm"]):
                raise not_finite("gradient", line["grad_norm"], state.global_step, plan)
            held = {"validation": round(self.measured["eval_loss"], 4)} if self.measured else {}
            self.measured = {}
            numbers = {"loss": line["loss"], **self.latest, **held, "tok_s": line["tokens_per_s"]}
            progress(what, state.global_step, state.max_steps, **numbers)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            cpu, tokens = time.process_time() - self.cpu, sum(map(order.tokens, range(round(state.epoch))))
            self.write({"event": "end", "steps": state.global_step, "tokens": tokens, "cpu_s": round(cpu, 2)})

        def write(self, line: dict[str, Any]) -> None:
            if rank():
                return
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")

    return Watch()


def watched(kind: Any, beside: Any) -> Any:
    """A trainer class of TRL that takes its rows in our order, and whose checkpoints are sealed."""
    import transformers

    class Watched(kind):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> Any:
            return beside.order

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            transformers.Trainer._save_checkpoint(self, model, trial)  # without TRL's model card
            self.accelerator.wait_for_everyone()  # each has written the state of its random numbers
            if not rank():
                beside.checkpoints.seal(self.state.global_step)

    return Watched


def run_to_end(trainer: Any, beside: Any, plan: Mapping[str, Any]) -> dict[str, Any]:
    """Train, from the last checkpoint if there is one; returns the numbers for the record."""
    import torch
    import transformers

    # TRL's own progress printing goes to the log of the job; ours is the one that people see.
    trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
    trainer.add_callback(beside)
    assert_effective(trainer, plan)
    if rank():  # what is dropped out shall differ
        torch.manual_seed(plan["seed"] + rank())
    resumed = beside.checkpoints.latest()
    try:
        trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    except Exception as error:
        beside.write({"event": "failed", "error": getattr(error, "what", None) or f"{type(error).__name__}: {error}"})
        raise
    state = trainer.state
    if state.global_step != state.max_steps and not beside.stopped:
        raise TrainingError(f"training ended at step {state.global_step} of {state.max_steps}")
    return {
        "steps": state.global_step,
        "train_loss": _last_epoch_loss(state),
        "trained_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
    }


def not_finite(what: str, number: float, step: int, plan: Mapping[str, Any]) -> TrainingError:
    """The error for a loss or gradient that is no number at a step, counted from 1, of a training by `plan`."""
    precision = plan["precision"]
    exact = "set training.precision to fp32" if precision != "fp32" else ""
    if step == 1:
        why = f"no weight has been changed yet, so it is the model that computes no numbers in {precision}"
        do = exact or "take another base_model"
    else:
        why = "the weights would be useless from here on"
        phase = "preference.hyperparams." if "method" in plan else ""
        do = f"set training.{phase}learning_rate lower than {plan['learning_rate']:g} (half of it)"
        do += f", or {exact}" if exact else ""
    return TrainingError(f"the {what} is {number} at step {step}", why=f"{why}; nothing was saved", do=do)


def _last_epoch_loss(state: Any) -> float:
    """Mean over the steps of the last epoch, from the history that checkpoints carry along."""
    losses = [float(entry["loss"]) for entry in state.log_history if "loss" in entry]
    last = losses[-max(1, round(len(losses) / max(1, round(state.epoch)))) :]
    return round(sum(last) / len(last), 6)
