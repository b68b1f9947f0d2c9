"""Running a job on this machine as a process of its own.

Events come back as JSON lines on the child's standard output; everything that libraries print goes to a log file. The
child's standard input is a pipe that closes with this process, however it dies, and the child ends itself then.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from dlmbuild.errors import DlmError, JobError, MissingExtra
from dlmbuild.io.digest import JSON, readable_json
from dlmbuild.io.progress import Progress, silent
from dlmbuild.jobs.environment import job_environment, may_fork
from dlmbuild.jobs.forkserver import Forked, fork
from dlmbuild.jobs.table import LOADED


def run_job(
    name: str,
    *,
    inputs: Mapping[str, Path],
    params: Mapping[str, JSON],
    out: Path,
    log: Path,
    file: str = "",
    progress: Progress = silent,
    threads: int = 1,
    processes: int = 1,
    network: bool = False,
) -> dict[str, Any]:
    """Run the job `name` and return what its function returned.

    Its function gets the folder `out` to write to, or, if `file` is given, the path of that file in it.
    With `processes` as many do it together, each with so many `threads` (ranks.py).
    Raises whatever DlmError the job raised, or JobError if the process died without one.
    """
    spec = {
        "job": name,
        "inputs": {role: str(path.absolute()) for role, path in inputs.items()},
        "params": dict(params),
        "out": str(out.absolute() / file),
        "processes": processes,
    }
    spec_file = out / ".spec.json"
    spec_file.write_bytes(readable_json(spec))
    log.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] | None = None
    failure: DlmError | None = None
    bug = ""
    with log.open("wb") as log_file:
        environment = job_environment(threads=threads, network=network)
        process = _started(name, spec_file, log_file, environment, progress)
        assert process.stdout is not None
        try:
            for line in process.stdout:
                try:
                    event = json.loads(line)
                except ValueError:
                    continue  # a process that is killed may leave half a line
                if event["event"] == "progress":
                    progress(event["what"], event["done"], event["total"], **event["numbers"])
                elif event["event"] == "result":
                    result = event["result"]
                elif event["event"] == "bug":
                    bug = bug or event["error"]  # what follows from the end of another process comes later
                else:
                    failure = DlmError.from_data(event["error"])
            code = process.wait()
        finally:
            _end(process)
    spec_file.unlink(missing_ok=True)
    if failure is not None:
        raise failure
    if result is None or code:
        raise _died(name, code, bug, log)
    return result


def _started(
    name: str, spec_file: Path, log: BinaryIO, environment: Mapping[str, str], progress: Progress
) -> subprocess.Popen[bytes] | Forked:
    if name in LOADED and may_fork():
        progress(f"loading {LOADED[name][0]}")  # which the job is only begun after
        if forked := fork(spec_file, LOADED[name], log, environment):
            return forked
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "dlmbuild.jobs", str(spec_file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=environment,
        start_new_session=True,  # Ctrl-C reaches the build, which ends the job in its own way
    )


def require_extra(*modules: str, extra: str = "train") -> None:
    """Refuse at once, in words, what would end in an ImportError minutes later; `extra` brings the modules."""
    from importlib.util import find_spec

    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise MissingExtra(
            f"this needs {', '.join(missing)}, which the light installation of dlmbuild leaves out",
            do=f"pip install 'dlmbuild[{extra}]'   (in a checkout of dlmbuild: pip install -e '.[{extra}]')",
        )


def _end(process: subprocess.Popen[bytes] | Forked) -> None:
    if process.stdin is not None:
        with contextlib.suppress(OSError):
            process.stdin.close()
    if process.stdout is not None:
        process.stdout.close()
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _died(name: str, returncode: int, bug: str, log: Path) -> JobError:
    how = f"signal {signal.Signals(-returncode).name}" if returncode < 0 else f"exit code {returncode}"
    why = "the system was probably out of memory" if returncode == -signal.SIGKILL else bug or _last_words(log)
    return JobError(f"the job {name!r} died ({how})", why=why, do=f"the whole output is in {log}")


def _last_words(log: Path) -> str:
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
