"""After any history of edits, reverts, damage and kills, a build comes to what it would come to from scratch."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.history import History

STEPS = int(os.environ.get("DLM_HISTORY_STEPS", "40"))
"""Things that happen in one history. `DLM_HISTORY_STEPS=500 pytest tests/test_history.py` for a long one."""

pytestmark = pytest.mark.model


@pytest.mark.parametrize("seed", [1, 2])
def test_every_build_comes_to_what_it_would_from_scratch(tmp_path: Path, seed: int) -> None:
    history = History(tmp_path, seed)
    happened = ["the first build"]
    assert history.build() == ""
    for _ in range(STEPS):
        happened.append(history.step())
        wrong = history.build()
        assert not wrong, "\n".join([*happened[-8:], wrong])
    again = history.shop.doit("export:Q4_K_M")
    assert again.steps == again.restored == []
    assert not list(history.shop.home.rglob("*.staging"))
