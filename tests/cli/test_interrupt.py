"""Ctrl-C while a command is still importing: one line, no traceback."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.workshop import SCRIPTS, Workshop

SLOW = "import time\nprint('importing', flush=True)\ntime.sleep(60)\n"


@pytest.mark.parametrize(
    ("words", "imported"), [(["list"], "doit"), (["build"], "doit"), (["show"], "argparse"), (["check"], "argparse")]
)
def test_one_line_and_130(workshop: Workshop, tmp_path: Path, words: list[str], imported: str) -> None:
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / f"{imported}.py").write_text(SLOW)
    process = subprocess.Popen(
        [str(SCRIPTS / "dlm"), *words],
        cwd=workshop.folder,
        env=workshop.env(PYTHONPATH=str(slow)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "\ninterrupted\n")
