"""dlm.lock through the command line: every row of the severity table is triggered, and every mode."""

from __future__ import annotations

import re
import shutil

import pytest

from tests.tiny import make_tiny_base
from tests.workshop import Workshop

pytestmark = pytest.mark.model


def _lock(w: Workshop, pattern: str, new: str) -> None:
    """Change what the store's lock says, as if the last training had been elsewhere."""
    path = w.store / "dlm.lock"
    text, count = re.subn(pattern, new, path.read_text(), count=1)
    assert count == 1
    path.write_text(text)


REFUSED = [
    (r'revision = "[^"]+"', 'revision = "another"', "base.revision"),
    (r'"model.safetensors" = "[^"]+"', '"model.safetensors" = "00"', "base.files.model.safetensors"),
    (r'torch = "[^"]+"', 'torch = "1.13.0"', "pins.torch"),
]
WARNED = [
    (r'torch = "(\d+)[^"]+"', r'torch = "\1.0.1"', "pins.torch"),
    *(
        (rf'{name} = "[^"]+"', f'{name} = "0.0.1"', f"pins.{name}")
        for name in ("transformers", "peft", "trl", "accelerate", "tokenizers")
    ),
    (r'tier = "[^"]+"', 'tier = "cpu-other"', "hardware.tier"),
    (r'class = "[^"]+"', 'class = "advisory"', "determinism.class"),
    (r"world_size = 1", "world_size = 2", "determinism.world_size"),
    (r'cublas_workspace_config = "[^"]+"', 'cublas_workspace_config = ":16:8"', "determinism.flags"),
]


@pytest.mark.parametrize(("pattern", "new", "field"), REFUSED, ids=[row[2] for row in REFUSED])
def test_what_makes_another_model_is_refused(built: Workshop, pattern: str, new: str, field: str) -> None:
    _lock(built, pattern, new)
    built.edit("tower", "rings in fog", "rings at noon")
    built.edit("tower", "dlm_version: 15", "dlm_version: 15\ntraining: {seed: 7}")
    ran = built.dlm("train", code=1)
    assert field in ran.err and "dlm --update-lock" in ran.err
    assert not any(step.startswith("train") for step in ran.steps)
    assert built.dlm("--ignore-lock", "why", "train", code=1).out  # the graph itself is fine


def test_a_base_of_this_disk_that_was_changed_in_its_place_is_told_and_strict_refuses_it(built: Workshop) -> None:
    shutil.rmtree(built.folder / "base")
    make_tiny_base(built.folder / "base", seed=8)
    refused = built.dlm("--strict-lock", "train", code=1)
    assert "base.revision" in refused.err and "train:tower" not in refused.steps
    told = built.doit("train")
    assert "base.revision" in told.out and "train:tower" in told.steps
    assert "base.revision" not in built.dlm("--strict-lock", "train").out


@pytest.mark.parametrize(("pattern", "new", "field"), WARNED, ids=[row[1].split(" ")[0] + row[2] for row in WARNED])
def test_other_versions_leave_an_adapter_valid_and_strict_refuses_them(
    built: Workshop, pattern: str, new: str, field: str
) -> None:
    _lock(built, pattern, new)
    assert built.doit("train").steps == []
    assert field in built.doit("lock=strict", "train", code=None).err
    assert field in built.dlm("--strict-lock", "train", code=1).err


def test_a_training_under_other_versions_warns_and_records_them(built: Workshop) -> None:
    _lock(built, r'peft = "[^"]+"', 'peft = "0.0.1"')
    built.edit("tower", "rings in fog", "rings at noon")
    ran = built.doit("train")
    assert "train:tower" in ran.steps
    assert "locked is 0.0.1" in ran.out
    assert 'peft = "0.0.1"' not in (built.store / "dlm.lock").read_text()
    built.doit("lock=strict", "train")


def test_auto_values_come_from_the_lock(built: Workshop) -> None:
    _lock(built, r"memory_bytes = \d+", "memory_bytes = 123456789000")
    _lock(built, r"learning_rate = [0-9e.-]+", "learning_rate = 0.00012")
    plan = built.store / "plan.json"
    built.doit("plan")
    assert '"learning_rate": 0.00012' in plan.read_text()
    built.doit("lock=update", "plan")
    assert '"learning_rate": 0.0002' in plan.read_text()


def test_a_locked_recipe_is_for_its_base_only(built: Workshop) -> None:
    _lock(built, r"learning_rate = [0-9e.-]+", "learning_rate = 0.00012")
    shutil.copytree(built.folder / "base", built.folder / "other")
    config = built.folder / "other" / "config.json"
    config.write_text(config.read_text() + "\n")
    built.edit("tower", "file:./base", "file:./other")
    built.doit("plan")  # naming another base is an edit of the document, and no lock forbids it
    assert '"learning_rate": 0.0002' in (built.store / "plan.json").read_text()


def test_the_project_lock_holds_everybody(built: Workshop) -> None:
    assert "dlm.lock is written" in built.dlm("lock").out
    assert built.dlm("lock", "--check").out == "dlm.lock is as it should be\n"
    assert built.doit("export:Q4_K_M").steps == []
    path = built.folder / "dlm.lock"
    path.write_text(re.sub(r'transformers = "[^"]+"', 'transformers = "0.0.1"', path.read_text()))
    assert "pins.transformers" in built.dlm("--strict-lock", "train", code=1).err
    assert "transformers" in built.dlm("lock", "--check", code=1).out
    path.write_text("lock_version = 1\n[documents")
    assert "cannot be read" in built.dlm("train", code=1).err


def test_an_unknown_mode_is_a_usage_error(built: Workshop) -> None:
    assert "lock=strict" in built.dlm("lock=hard", "train", code=2).err
