"""Ctrl-C and SIGTERM, early and late, through `dlm`: one line, no traceback."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.workshop import Workshop

SLOW = "import time\nprint('importing', flush=True)\ntime.sleep(60)\n"


@pytest.mark.parametrize(
    ("words", "imported"), [(["list"], "doit"), (["build"], "doit"), (["show"], "argparse"), (["check"], "argparse")]
)
def test_one_line_and_130(workshop: Workshop, tmp_path: Path, words: list[str], imported: str) -> None:
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / f"{imported}.py").write_text(SLOW)
    process = workshop.start("dlm", *words, PYTHONPATH=str(slow))
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "\ninterrupted\n")


WAIT = """
import time

def wait():
    print("waiting", flush=True)
    time.sleep(60)

def task_slow():
    return {"actions": [(wait,)], "io": {"capture": False}}
"""


@pytest.mark.parametrize(
    ("number", "code", "told"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated; what was finished is kept")],
)
def test_a_build_says_what_ended_it(workshop: Workshop, number: int, code: int, told: str) -> None:
    with (workshop.folder / "dodo.py").open("a") as file:
        file.write(WAIT)
    process = workshop.start("dlm", "build", "slow")
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, f"\n{told}\n")
