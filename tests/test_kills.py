"""A build that is killed just before any one of its commits (fsync, rename, link, unlink) is finished by the next one.

The graph, records and store are the real ones, the heavy jobs write digests (tests/history.py); what a kill does in the
middle of a real training is in test_graph.py.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.history import QUANT, History
from tests.workshop import Workshop

pytestmark = pytest.mark.model

STRIDE = int(os.environ.get("DLM_KILL_STRIDE", "9"))
"""`DLM_KILL_STRIDE=1 pytest tests/test_kills.py` kills at every single one."""


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
