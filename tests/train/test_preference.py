"""The loss of KTO against TRL's own trainer, and what it takes for answers that do not match."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dlmbuild.data.pairs import PairRow
from dlmbuild.train.preference import _trainer, mismatched

PLAN = {
    "method": "kto",
    "beta": 0.3,
    "reference": "pre_adapter",
    "sequence_len": 8,
    "micro_batch_size": 3,
    "grad_accum": 1,
    "world_size": 1,
    "num_epochs": 1,
    "learning_rate": 1e-4,
    "lr_scheduler": "constant",
    "warmup_ratio": 0.0,
    "optimizer": "adamw_torch",
    "seed": 1,
    "precision": "fp32",
    "device": "cpu",
    "gradient_checkpointing": False,
}
ROWS = [
    PairRow((5, 6, 7), (8, 9, 2), (10, 2)),
    PairRow((11, 12), (13, 2), (14, 15, 16, 25, 26, 2)),  # longer than a row may be, behind the first prompt
    PairRow((17, 18, 19, 20), (21, 22, 2), (23, 24, 2)),
]


def names(rows: list[PairRow]) -> list[tuple[int, ...]]:
    return [(row.prompt[0], row.chosen[0], row.rejected[0]) for row in rows]


def test_a_prompt_is_put_before_the_answers_to_the_next_other_prompt() -> None:
    def rows(*prompts: int) -> list[PairRow]:
        return [PairRow((prompt,), (10 + at,), (20 + at,)) for at, prompt in enumerate(prompts)]

    assert names(mismatched(rows(1, 2, 3))) == [(1, 11, 21), (2, 12, 22), (3, 10, 20)]
    assert names(mismatched(rows(1, 1, 2, 1))) == [(1, 12, 22), (1, 12, 22), (2, 13, 23), (1, 12, 22)]
    assert names(mismatched(rows(1, 1))) == [(1, 10, 20), (1, 10, 20)]
    assert mismatched(rows(1)) == rows(1)


def adapted(seed: int) -> Any:
    """A small random model with an adapter that changes it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
    model = get_peft_model(
        LlamaForCausalLM(LlamaConfig(vocab_size=40, initializer_range=0.2, **sizes)), LoraConfig(r=4)
    )
    move(model, seed)
    return model


def move(model: Any, seed: int) -> None:
    """Change an adapter as some steps of training would."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "lora_B.default" in name:
                weights += torch.randn(weights.shape, generator=generator)


def trls_loss(seed: int, reference: str, folder: Path) -> tuple[float, dict[str, float]]:
    """What KTOTrainer computes for the answers of ROWS in one batch, and the metrics of that."""
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    from dlmbuild.train.model import no_processing

    class Trainer(KTOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    table = [
        {
            "prompt_ids": list(row.prompt),
            "completion_ids": list(getattr(row, answer)),
            "KL_completion_ids": list(getattr(other, answer)),
            "label": answer == "chosen",
        }
        for row, other in zip(ROWS, mismatched(ROWS), strict=True)
        for answer in ("chosen", "rejected")
    ]
    trainer = Trainer(
        model=adapted(seed),
        args=KTOConfig(
            output_dir=str(folder),
            beta=PLAN["beta"],
            max_length=PLAN["sequence_len"],
            per_device_train_batch_size=len(table),
            use_cpu=True,
            bf16=False,
            report_to="none",
        ),
        train_dataset=Dataset.from_list(table),
        processing_class=no_processing(),
    )
    if reference == "base":
        trainer.model.delete_adapter("ref")
    move(trainer.model, seed + 100)
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(table)).item()
    return loss, {name: value for name, (value,) in trainer._metrics["train"].items()}


@pytest.mark.parametrize("reference", ["pre_adapter", "base"])
@pytest.mark.parametrize(("seed", "nearer"), [(11, False), (8, True)])  # nearer: below 0, where it is cut off
def test_the_loss_is_that_of_trl(seed: int, nearer: bool, reference: str, tmp_path: Path) -> None:
    wanted, metrics = trls_loss(seed, reference, tmp_path)
    assert metrics["kl"] == 0 if nearer else metrics["kl"] > 0.5
    beside = SimpleNamespace(order=None)
    trainer = _trainer(adapted(seed), ROWS, {**PLAN, "reference": reference}, 0, tmp_path, beside)
    move(trainer.model, seed + 100)
    batch = trainer.data_collator(list(trainer.train_dataset))
    assert batch["input_ids"].shape == batch["mismatched"]["input_ids"].shape == (6, 8)
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(wanted, abs=1e-5)
    (margin,) = trainer._metrics["train"]["rewards/margins"]
    assert margin == pytest.approx(metrics["rewards/margins"], abs=1e-5)
