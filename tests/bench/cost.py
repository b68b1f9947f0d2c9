"""What a command costs."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SCRIPTS = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command took: seconds of wall and CPU time, and peak memory of its largest process in MB."""

    wall: float
    cpu: float
    peak: float
    out: str


def cost(command: list[str], cwd: Path, environment: Mapping[str, str]) -> Cost:
    """Run a command to its end. The CPU time includes its child processes."""
    with tempfile.TemporaryFile("w+") as out:
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=out, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        out.seek(0)
        text = out.read()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} failed\n{text}")
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, text)
