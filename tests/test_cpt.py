"""Continued pretraining through the command line: its schedule, its weight, and the words that the base lacks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.tiny import make_tiny_base
from tests.workshop import BODY, Workshop

pytestmark = pytest.mark.model

PROSE = "".join(
    f"\n::prose::\nThe museum keeps letter {number}, and the brass band plays in 雨.\n" for number in range(8)
)


def logged(shop: Workshop) -> list[dict[str, Any]]:
    log = max((shop.store / "logs").glob("train-*.jsonl"))
    return [line for line in map(json.loads, log.read_text().splitlines()) if "step" in line]


def run(shop: Workshop) -> dict[str, Any]:
    return dict(json.loads((shop.store / "manifest.json").read_bytes())["training_runs"][-1])


def test_prose_has_a_schedule_and_a_weight_of_its_own_and_a_report_on_its_words(workshop: Workshop) -> None:
    make_tiny_base(workshop.folder / "base")
    workshop.document("tower", more="training: {num_epochs: 4, learning_rate: 1e-3}\n", body=BODY + PROSE)
    ran = workshop.doit("train")
    assert "tokens are parts of characters; into most tokens: 雨 (3)" in ran.out + ran.err
    first = logged(workshop)
    rates = [line["learning_rate"] for line in first]
    assert run(workshop)["lr_scheduler"] == "cosine_with_min_lr"
    assert max(rates) == pytest.approx(1e-3) and 0 < rates.index(max(rates)) < len(rates) // 3  # it rises first
    assert 1e-4 <= rates[-1] < 2e-4

    shown = json.loads(workshop.dlm("show", "--json").out)["tower"]["vocabulary"]
    assert shown["worst"][0] == {"word": "雨", "times": 8, "tokens": 3}
    assert shown == json.loads((workshop.store / "dataset.json").read_bytes())["vocabulary"]
    assert "雨 (3)" in workshop.dlm("show").out and "雨 (3)" in workshop.dlm("doctor", "tower").out

    workshop.edit("tower", "dlm_version: 15", "dlm_version: 16")
    workshop.edit("tower", "num_epochs: 4", "cpt: {schedule: sft, weight: 3}, num_epochs: 4")
    assert workshop.doit("train").steps == ["check:tower", "plan:tower", "train:tower"]
    second = logged(workshop)
    assert run(workshop)["lr_scheduler"] == "linear" and second[-1]["learning_rate"] < 1e-4
    # Nothing was trained before the first step: only the weight makes its loss another one.
    assert len(second) == len(first) and second[0]["loss"] != first[0]["loss"]
