"""`training.wordings` through the command line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.tiny import make_tiny_base
from tests.workshop import Workshop

pytestmark = pytest.mark.model


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    make_tiny_base(workshop.folder / "base")
    training = "training: {wordings: 4, micro_batch_size: 1, grad_accum: 1, num_epochs: 2}\n"
    workshop.document("tower", more=training, version=16)
    return workshop


def _run(shop: Workshop) -> dict[str, Any]:
    run: dict[str, Any] = json.loads((shop.store / "manifest.json").read_bytes())["training_runs"][-1]
    return run


def test_questions_are_trained_in_so_many_wordings_and_prose_once(shop: Workshop) -> None:
    shop.doit("train")
    rows = json.loads((shop.store / "dataset.json").read_bytes())["counts"]["rows"]
    run = _run(shop)
    assert run["rows"] == sum(rows.values()) and run["wordings"] == 4 * rows["instruction"] + rows["prose"]
    assert run["steps"] == 2 * run["wordings"]
    assert 0 <= run["paraphrases"] <= 2 * rows["instruction"]  # a base that knows nothing says hardly a sentence
    assert json.loads((shop.store / "plan.json").read_bytes())["wordings"] == 4
    (told,) = (shop.store / "logs").glob("train-*.wordings.json")
    found = {one["question"]: one["wordings"] for one in json.loads(told.read_bytes())}
    assert list(found) == ["Who trims the lamp?", "When does the bell ring?"]
    assert all(len(wordings) == 4 and all(wordings) for wordings in found.values())
    shop.edit("tower", "wordings: 4, ", "")
    shop.doit("train")
    assert "wordings" not in _run(shop) and _run(shop)["steps"] == 2 * run["rows"]


def test_a_number_that_means_nothing_and_a_version_that_does_not_know_it_are_refused(shop: Workshop) -> None:
    shop.edit("tower", "wordings: 4", "wordings: 0")
    assert "tower.dlm:5:22: training.wordings is 0" in shop.doit("check", code=1).err
    shop.edit("tower", "wordings: 0", "wordings: 4")
    shop.edit("tower", "dlm_version: 16", "dlm_version: 15")
    assert "training.wordings" in shop.doit("check", code=1).err
