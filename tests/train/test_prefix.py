"""A training over kept states of lower layers is the one that computes every layer each time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dlmbuild.data.rows import Row
from dlmbuild.errors import TrainingError
from dlmbuild.train import sft
from dlmbuild.train.kept import prune
from tests.tiny import make_tiny_base

pytestmark = pytest.mark.model
ROWS = [list(range(3, 40)), list(range(60, 20, -1)), [5, 6, 7]]


def nothing(*_: Any, **__: Any) -> None:
    """Progress that nobody watches."""


def _losses(
    tmp_path: Path, name: str, wordings: int, extra: Sequence[Row] = (), layers: str = "last 1", **more: Any
) -> list[float]:
    plan = {
        **{
            "adapter": "lora",
            "attention": "sdpa",
            "device": "cpu",
            "gradient_checkpointing": False,
            "grad_accum": 2,
            "world_size": 1,
        },
        **{"learning_rate": 1e-2, "lora_alpha": 16, "lora_dropout": 0.0, "lora_r": 4, "lr_scheduler": "linear"},
        **{"micro_batch_size": 2, "num_epochs": 3, "optimizer": "adamw_torch", "precision": "fp32", "seed": 7},
        **{"sequence_len": 128, "target_modules": ["q_proj", "up_proj"], "threads": 1, "warmup_ratio": 0.0},
        **{"layers": layers, "retention": 0.0, "rslora": False, "validation": 0, "early_stopping": 0},
        **{"cpt": {"weight": 1.0}, "wordings": wordings},
    }
    out = tmp_path / name
    out.mkdir()
    rows = [Row("prose", tuple(ids), given) for ids, given in zip(ROWS * 2, (1, 20, 1, 30, 2, 2), strict=True)]
    rows += [Row("instruction", tuple(range(5, 25)), 15, (3, 5, 6, 8, 9, 12)), *extra]
    sft.fit(
        rows,
        0,
        base=tmp_path / "base",
        log=tmp_path / f"{name}.jsonl",
        checkpoints=tmp_path / "checkpoints",
        plan=plan,
        base_identity={"name": "tiny", "revision": "1", "files": {}},
        checkpoint_seconds=float("inf"),
        out=out,
        progress=nothing,
        **more,
    )
    lines = map(json.loads, (tmp_path / f"{name}.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.parametrize("wordings", [1, 5])
def test_losses_are_those_of_a_training_that_computes_every_layer_each_time(
    wordings: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny_base(tmp_path / "base")
    kept = _losses(tmp_path, "kept", wordings, states=tmp_path / "states")
    again = _losses(tmp_path, "again", wordings, states=tmp_path / "states")
    alone = _losses(tmp_path, "alone", wordings)
    assert kept == again == alone
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("kept", "again", "alone")]
    assert weights[0] == weights[1] == weights[2]
    monkeypatch.setattr(sft, "first_trained", lambda *_: 0)
    plain = _losses(tmp_path, "plain", wordings)
    assert kept == pytest.approx(plain, abs=1e-4)
    assert kept[-1] < kept[0]


def test_states_that_another_build_removes_are_told_and_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tiny_base(tmp_path / "base")
    states = tmp_path / "states"

    def make_room(*_: Any) -> Any:
        for path in prune(states, 0, 90):
            path.unlink()
        return run_to_end(*_)

    run_to_end = sft.run_to_end
    monkeypatch.setattr(sft, "run_to_end", make_room)
    with pytest.raises(TrainingError, match=r"is gone or damaged: a build with a smaller training\.cache"):
        _losses(tmp_path, "first", 1, states=states)
    monkeypatch.undo()
    assert _losses(tmp_path, "again", 1, states=states) == _losses(tmp_path, "alone", 1)


@pytest.mark.parametrize("layers", ["all", "last 1"])
def test_a_row_in_which_nothing_is_foreseen_is_a_step_that_teaches_nothing(layers: str, tmp_path: Path) -> None:
    make_tiny_base(tmp_path / "base")
    # Nine rows, two in a batch, two batches in a step: the shortest is alone in the last step of each epoch.
    short = [Row("prose", (5, 6), 0), Row("prose", (7,), 0)]
    losses = _losses(tmp_path, "short", 1, short, layers=layers)
    assert len(losses) == 9 and losses[2::3] == [0.0] * 3 and min(losses[0], losses[1]) > 0


def test_files_that_were_not_used_for_long_go_first(tmp_path: Path) -> None:
    import os
    import time

    now = time.time()
    for name, days in (("a", 100.0), ("b", 50.0), ("c", 2.0), ("d", 1.0)):
        path = tmp_path / name / name
        path.parent.mkdir()
        path.write_bytes(b"12345")
        os.utime(path, (now - days * 86_400,) * 2)
    assert [path.name for path in prune(tmp_path, 100, 90)] == ["a"]
    assert [path.name for path in prune(tmp_path, 10, 90)] == ["a", "b"]
    assert [path.name for path in prune(tmp_path, 4, 90)] == ["a", "b", "c", "d"]
    assert prune(tmp_path / "nowhere", 1, 1) == []
    (tmp_path / "a" / "e").symlink_to("gone")  # as another training leaves it that prunes at the same time
    assert [path.name for path in prune(tmp_path, 100, 90)] == ["a"]
