"""A job is done: its function is called as the specification says, and what comes of it is told as JSON lines."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import time
import traceback
from pathlib import Path
from typing import Any

from dlmbuild.errors import DlmError
from dlmbuild.jobs.table import JOBS
from dlmbuild.store.disk import disk_error
from dlmbuild.store.layout import Home

_PROGRESS_EVERY_SECONDS = 0.1
_LONGEST_MESSAGE = 500


def work(spec_file: str) -> int:
    """Do what a specification says. Of several processes that do it the first one tells how it goes."""
    spec = json.loads(Path(spec_file).read_bytes())
    first = int(os.environ.get("RANK", 0)) == 0
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print to standard output belongs into the log
    last = 0.0

    def tell(event: str, **data: Any) -> None:
        events.write(json.dumps({"event": event, **data}) + "\n")

    def progress(what: str, done: float = 0, total: float = 0, **numbers: float) -> None:
        nonlocal last
        now = time.monotonic()
        if first and (now - last >= _PROGRESS_EVERY_SECONDS or done in (0, total)):
            last = now
            tell("progress", what=what, done=done, total=total, numbers=numbers)

    try:
        module, function = JOBS[spec["job"]].split(":")
        do = getattr(importlib.import_module(module), function)
        inputs = {role: Path(path) for role, path in spec["inputs"].items()}
        result = do(**inputs, **spec["params"], out=Path(spec["out"]), progress=progress)
        if first:
            tell("result", result=result)
    except DlmError as error:
        tell("error", error=error.as_data())
        return 1
    except (Exception, SystemExit) as error:
        told = disk_error(error, Home.default())
        if told is not None:
            tell("error", error=told.as_data())
        else:
            tell("bug", error="".join(traceback.format_exception_only(error)).strip()[:_LONGEST_MESSAGE])
        with contextlib.suppress(OSError):  # the disk with the log may be full
            traceback.print_exc()
        return 1
    return 0
