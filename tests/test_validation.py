"""Content that is held out of training: measured after each epoch, and what decides when a training ends."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import make_tiny_base
from tests.workshop import BODY, Workshop

pytestmark = pytest.mark.model

MORE = """
### Q
Who  trims the LAMP?
### A
It is the keeper.

### Q
Who winds the clock?
### A
The keeper trims the lamp.
"""


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    make_tiny_base(workshop.folder / "base")
    return workshop


def ready(shop: Workshop, training: str) -> None:
    path = shop.folder / "tower.dlm"
    if not path.exists():
        shop.document("tower", more="training: {}\n", body=BODY + MORE)
        shop.edit("tower", "dlm_version: 15", "dlm_version: 16")
    head, _, body = path.read_text().partition("training: ")
    path.write_text(f"{head}training: {training}\n{body.partition(chr(10))[2]}")


def version(shop: Workshop) -> Path:
    folder = shop.store / "adapter"
    return folder / (folder / "current.txt").read_text().strip()


def run(shop: Workshop) -> dict[str, Any]:
    return dict(json.loads((version(shop) / "training_run.json").read_bytes())["run"])


def steps(shop: Workshop) -> list[dict[str, Any]]:
    log = max((shop.store / "logs").glob("train-*.jsonl"))
    return [line for line in map(json.loads, log.read_text().splitlines()) if "step" in line]


def test_a_share_of_the_content_is_held_out_whole_and_measured_after_each_epoch(shop: Workshop) -> None:
    ready(shop, "{validation: 0.34, num_epochs: 3}")
    ran = shop.doit("train")
    assert "held out for validation: 1 of 3 groups of content" in ran.out
    dataset = json.loads((shop.store / "dataset.json").read_bytes())
    held, trained = sum(dataset["held_out"]["rows"].values()), sum(dataset["counts"]["rows"].values())
    assert held in (1, 3) and held + trained == 5  # three questions share words or an answer
    assert (run(shop)["rows"], run(shop)["validation_rows"]) == (trained, held)
    measured = [line for line in steps(shop) if "eval_loss" in line]
    assert [round(line["epoch"]) for line in measured] == [1, 2, 3]
    assert run(shop)["validation_loss"] == pytest.approx(measured[-1]["eval_loss"], abs=1e-5)
    assert all({"eval_prose", "eval_instruction"} & line.keys() for line in measured)
    assert f"{held} rows held out, loss " in shop.dlm("show", "tower").out
    assert shop.dlm("metrics", "show", "tower").code == 0
    assert shop.doit("train").steps == []
    ready(shop, "{num_epochs: 3}")
    shop.doit("train")
    assert run(shop)["rows"] == 5 and "held out" not in shop.dlm("show", "tower").out


EARLY = "{validation: 0.34, early_stopping: 2, num_epochs: 30, learning_rate: 5e-2, lr_scheduler: constant"


def test_early_stopping_keeps_the_adapter_of_the_best_epoch(shop: Workshop) -> None:
    ready(shop, EARLY + "}")
    shop.doit("train")
    found = run(shop)
    assert found["epochs"] == found["kept_epoch"] + 2 < 30
    losses = [line["eval_loss"] for line in steps(shop) if "eval_loss" in line]
    assert len(losses) == found["epochs"] and min(losses) == losses[found["kept_epoch"] - 1]
    kept = (version(shop) / "adapter_model.safetensors").read_bytes()
    assert f"epoch {found['kept_epoch']} of {found['epochs']} kept" in shop.dlm("show", "tower").out
    # With a rate that does not fall, training for just that long is the same training.
    ready(shop, EARLY.replace("early_stopping: 2, num_epochs: 30", f"num_epochs: {found['kept_epoch']}") + "}")
    shop.doit("train")
    assert (version(shop) / "adapter_model.safetensors").read_bytes() == kept


def test_a_training_that_is_killed_stops_where_one_that_ran_through_does(shop: Workshop, tmp_path: Path) -> None:
    ready(shop, EARLY.replace("5e-2", "2e-3").replace("30", "60") + ", lora_dropout: 0.1}")
    shop.doit("dataset")
    whole = Workshop(shop.folder, tmp_path / "home2")
    shutil.copytree(shop.home, whole.home)
    whole.doit("train")
    assert run(whole)["steps"] > 6
    shop.killed_at_checkpoint("train", range(3, run(whole)["steps"]))
    ran = shop.doit("train")
    assert "resuming at step" in ran.out
    for name in ("adapter_model.safetensors", "training_state.pt", "training_run.json"):
        assert (version(shop) / name).read_bytes() == (version(whole) / name).read_bytes(), name


def test_what_cannot_be_held_out_is_refused_with_its_place(shop: Workshop) -> None:
    ready(shop, "{early_stopping: 2}")
    told = shop.doit("check", code=1).err
    assert "tower.dlm:5:28: training.early_stopping is 2: it stops when" in told
    assert "write training.validation: 0.1 beside it" in told
    shop.document("tower", more="training: {validation: 0.5}\n", body="One paragraph.\n")
    assert "training.validation in version 15: version 16 has it first" in shop.doit("check", code=1).err
    shop.edit("tower", "dlm_version: 15", "dlm_version: 16")
    told = shop.doit("train", code=1).err
    assert (
        "tower.dlm:5:24: training.validation holds out one of 1 groups" in told and "delete training.validation" in told
    )
