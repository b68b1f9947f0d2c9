"""A build that is killed just before any one of its commits (fsync, rename, link, unlink) is finished by the next one.

The graph, records and store are the real ones, the heavy jobs write digests (tests/history.py). The last test kills
real trainings, wherever they happen to be.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import time
from pathlib import Path

import pytest

from tests.history import QUANT, History
from tests.workshop import Workshop

pytestmark = pytest.mark.model

STRIDE = int(os.environ.get("DLM_KILL_STRIDE", "13"))
"""`DLM_KILL_STRIDE=1 pytest tests/test_kills.py` kills at every single one."""

TRAINING_KILLS = int(os.environ.get("DLM_TRAINING_KILLS", "3"))
"""`DLM_TRAINING_KILLS=200 pytest tests/test_kills.py -k training` takes its time."""


@pytest.mark.parametrize("first_build", [True, False], ids=["first build", "rebuild"])
def test_a_kill_at_any_commit_is_finished_by_the_next_build(tmp_path: Path, first_build: bool) -> None:
    history = History(tmp_path / "origin", 0)
    if not first_build:
        assert history.build() == ""
        history.inputs.answer = "at noon"
        history.inputs.seed = 2
        history.write(history.shop.folder, history.inputs)
    expected = history.from_scratch()
    kills = 0
    for at in range(1, 10_000, STRIDE):
        shop = Workshop(tmp_path / "copy" / "project", tmp_path / "copy" / "home")
        shutil.copytree(history.shop.folder, shop.folder)
        if history.shop.home.exists():
            shutil.copytree(history.shop.home, shop.home)
        killed = shop.doit(f"export:{QUANT}", code=None, KILL_AT=str(at))
        ended = set(re.findall(r"^✓ (\S+)", killed.out, re.MULTILINE))
        after = shop.doit(f"export:{QUANT}")
        assert not ended & set(after.steps), f"killed at {at}: a finished step ran again"
        assert history.state(shop) == expected, f"killed at {at}"
        shop.dlm("gc", "--delete")
        assert not list(shop.home.rglob("*.staging"))
        assert shop.doit(f"export:{QUANT}").steps == []
        shutil.rmtree(tmp_path / "copy")
        if killed.code == 0:
            break
        kills += 1
    assert kills * STRIDE > 50


def test_a_training_killed_at_random_again_and_again_ends_the_same(built: Workshop, tmp_path: Path) -> None:
    built.edit("tower", "dlm_version: 15", "dlm_version: 15\ntraining: {num_epochs: 60, lora_dropout: 0.1}")
    whole = Workshop(tmp_path / "whole", tmp_path / "home2")
    shutil.copytree(built.folder, whole.folder)
    shutil.copytree(built.home, whole.home)
    started = time.monotonic()
    whole.doit("train")
    seconds = time.monotonic() - started
    wanted = json.loads((whole.store / "adapter" / "adapter.json").read_bytes())["files"]
    untouched = tmp_path / "untouched"
    shutil.copytree(built.home, untouched)
    chance = random.Random(TRAINING_KILLS)
    for _ in range(TRAINING_KILLS):
        build = built.start_silently("doit", "train", DLM_CHECKPOINT_SECONDS="0.1")
        time.sleep(chance.uniform(0, 1.1 * seconds))
        build.kill()
        if build.wait() == 0:  # it was quicker: what it made is what the undisturbed one made; begin again
            assert json.loads((built.store / "adapter" / "adapter.json").read_bytes())["files"] == wanted
            shutil.rmtree(built.home)
            shutil.copytree(untouched, built.home)
    assert built.doit("train").steps in ([], ["train:tower"])
    assert json.loads((built.store / "adapter" / "adapter.json").read_bytes())["files"] == wanted
    built.dlm("gc", "--delete")
    assert not list(built.home.rglob("*.staging"))
