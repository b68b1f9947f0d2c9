"""The code is linted, formatted and type-checked, with the settings in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy", "-p", "dlmbuild"],
        ["mypy", "rules", "dodo.py"],
        # Which nobody runs until the next measurement: it shall not find then that something has another name.
        ["mypy", "--explicit-package-bases", "--follow-imports=silent", "tests/bench"],
    ],
    ids=" ".join,
)
def test_checked(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
