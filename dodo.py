"""What this repository builds: the documents under examples/, and its own measurements."""

import sys
from typing import Any

from dlmbuild.rules import project

globals().update(project("examples/*/*.dlm"))


def task_bench() -> dict[str, Any]:
    """measure what the main job costs here (some minutes)"""
    return {"actions": [[sys.executable, "tests/bench/run.py"]], "uptodate": [False], "verbosity": 2}
