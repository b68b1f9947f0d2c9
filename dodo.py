"""What this repository builds: the documents under examples/, and its own measurements."""

import sys
from typing import Any

from dlmbuild.rules import project

globals().update(project("examples/*/*.dlm"))


def task_bench() -> dict[str, Any]:
    """measure what the main job costs here (some minutes)"""
    return {"actions": [[sys.executable, "-m", "tests.bench.run"]], "uptodate": [False], "verbosity": 2}


def task_golden() -> dict[str, Any]:
    """write down which adapters a machine like this one trains (some minutes)"""
    return {"actions": [[sys.executable, "-m", "tests.golden.golden"]], "uptodate": [False], "verbosity": 2}
