"""`training.retention` through the command line: the base is asked once, and a training is held to what it says."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.errors import TrainingError
from dlmbuild.train.retention import RetentionSet
from tests.tiny import make_tiny_base
from tests.workshop import Workshop

pytestmark = pytest.mark.model


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    make_tiny_base(workshop.folder / "base")
    _write(workshop, "tower", "retention: 2.0")
    return workshop


def _write(shop: Workshop, name: str, value: str) -> None:
    values = f"training: {{{value}, layers: last 1, seed: 3, grad_accum: 2, num_epochs: 6, learning_rate: 1e-2}}\n"
    shop.document(name, more=values, version=16)


def _steps(shop: Workshop) -> list[dict[str, Any]]:
    log = max((shop.store / "logs").glob("train-*.jsonl"))
    return [line for line in map(json.loads, log.read_text().splitlines()) if "step" in line]


def _adapter(shop: Workshop) -> Path:
    adapter = shop.store / "adapter"
    return adapter / (adapter / "current.txt").read_text().strip() / "adapter_model.safetensors"


def _set(shop: Workshop) -> Path:
    (found,) = (shop.home / "bases").glob("*/retention.safetensors")
    return found


def test_a_training_is_held_to_what_the_base_says(shop: Workshop) -> None:
    ran = shop.doit("train")
    assert "retention:" in " ".join(ran.steps) and "train:tower" in ran.steps
    held = [step["retention/divergence"] for step in _steps(shop)]
    assert held[0] == pytest.approx(0, abs=1e-3)  # an adapter that has learned nothing says what the base says
    assert max(held) > 1e-3
    run = json.loads((shop.store / "manifest.json").read_bytes())["training_runs"][-1]
    assert run["retention_rows"] == 116
    assert shop.doit("train").steps == []

    shop.edit("tower", "retention: 2.0", "retention: 50.0")
    assert "retention:" not in " ".join(shop.doit("train").steps)
    held_harder = [step["retention/divergence"] for step in _steps(shop)]
    assert sum(held_harder[-4:]) < sum(held[-4:])


def test_without_it_nothing_is_asked_and_with_it_a_second_document_asks_nothing_again(shop: Workshop) -> None:
    shop.edit("tower", "retention: 2.0", "retention: 0")
    assert "retention:" not in " ".join(shop.doit("train").steps)
    assert "retention/divergence" not in _steps(shop)[0]
    shop.edit("tower", "retention: 0", "retention: 1")
    shop.doit("train")
    made = _set(shop).read_bytes()
    _write(shop, "harbour", "retention: 1")
    assert "retention:" not in " ".join(shop.doit("train").steps)
    assert _set(shop).read_bytes() == made


def test_a_killed_training_ends_with_the_bytes_of_one_that_was_not(shop: Workshop, tmp_path: Path) -> None:
    shop.doit("dataset", "retention")
    shop.killed_at_checkpoint("train:tower", range(1, 8))
    ran = shop.doit("train")
    assert "resuming at step" in ran.out + ran.err
    again = Workshop(shop.folder, tmp_path / "other")
    again.doit("train")
    assert _adapter(again).read_bytes() == _adapter(shop).read_bytes()
    assert _set(again).read_bytes() == _set(shop).read_bytes()


def test_the_lock_names_the_set_and_another_one_is_told_and_by_a_strict_lock_refused(shop: Workshop) -> None:
    shop.doit("train")
    shop.dlm("lock")
    lock = shop.folder / "dlm.lock"
    digest = hashlib.sha256(_set(shop).read_bytes()).hexdigest()
    assert f'[documents.{shop.store.name}.retention]\nsha256 = "{digest}"' in lock.read_text()
    shop.doit("lock=strict", "train")
    lock.write_text(lock.read_text().replace(digest, "0" * 64))
    assert f"retention.sha256 is {digest}" in shop.doit("lock=strict", "train", code=None).err
    shop.edit("tower", "seed: 3", "seed: 4")
    ran = shop.doit("train")
    assert f"retention.sha256 is {digest}, locked is 000" in ran.out + ran.err


def test_after_a_system_prompt_the_same_answers_are_held(shop: Workshop) -> None:
    values = "system_prompt: You know towers.\ntraining: {retention: 2.0, layers: last 1, num_epochs: 1}\n"
    shop.document("tower", more=values, version=16)
    shop.doit("train")
    tokenizer = Tokenizer.from_base(shop.folder / "base")
    plain = RetentionSet.read(_set(shop), seed=3)
    asked = plain.asked_after("You know towers.", tokenizer)
    assert [row.learned for row in asked.rows] == [row.learned for row in plain.rows]
    texts = [tokenizer.decode(list(row.ids), special=True) for row in asked.rows]
    assert sum("You know towers." in text for text in texts) == 80
    assert "You know towers." in texts[0] and "What is the capital of Italy?" in texts[0]
    assert asked.rows[80:] == plain.rows[80:]  # openings of texts are no questions
    kept = {path.name for path in (shop.home / "states").glob("*/*")}
    shop.edit("tower", "You know towers.", "You know bells.")
    shop.doit("train")
    assert len({path.name for path in (shop.home / "states").glob("*/*")} - kept) > 80 // 8
    with pytest.raises(TrainingError, match="doit retention"):
        replace(plain, rows=plain.rows[1:]).asked_after("You know towers.", tokenizer)


def test_a_damaged_set_is_made_again(shop: Workshop) -> None:
    shop.doit("train")
    made = _set(shop).read_bytes()
    _set(shop).chmod(0o644)
    _set(shop).write_bytes(made[:100])
    ran = shop.doit("train")
    assert "train:tower" not in ran.steps
    assert _set(shop).read_bytes() == made


@pytest.mark.parametrize(("value", "why"), [("-1", "from 0 to 100"), ("much", '"auto"')])
def test_values_that_mean_nothing_are_refused_where_they_stand(shop: Workshop, value: str, why: str) -> None:
    shop.edit("tower", "retention: 2.0", f"retention: {value}")
    told = shop.doit("check", code=1).err
    assert "tower.dlm:5:23: training.retention is" in told and why in told
