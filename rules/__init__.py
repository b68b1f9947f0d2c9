"""The graph: one file per stage, which says what a step reads, what it makes, and which function of dlmbuild does it.

A project's dodo.py is two lines:

    from dlmbuild.rules import project
    globals().update(project("*.dlm"))
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, cast

from doit import get_var
from doit.exceptions import InvalidDodoFile

from dlmbuild.build.checker import ExistenceChecker
from dlmbuild.build.project import Project
from dlmbuild.build.reporter import Reporter
from dlmbuild.doc.names import QUANTISATIONS
from dlmbuild.lock import MODES, Mode

from . import base, check, dataset, export, gguf, merge, parity, plan, quantize, smoke, train

STAGES = (check, base, plan, dataset, train, gguf, quantize, parity, merge, smoke, export)
"""In the order in which they follow each other."""


def project(*patterns: str) -> dict[str, Any]:
    """What a dodo.py needs to build every document that matches a pattern below the current folder."""
    _end_quietly()
    found = Project(Path.cwd(), patterns, _lock_mode())
    return {
        "DLM_PROJECT": found,
        "task_documents": _creator(found),
        "DOIT_CONFIG": {
            "default_tasks": ["export"],
            "reporter": Reporter,
            "check_file_uptodate": ExistenceChecker,
            "backend": "dlm",
            "dep_file": ".doit.db",
            "par_type": "thread",
        },
    }


def _lock_mode() -> Mode:
    """`doit lock=strict …`, or DLM_LOCK, which `dlm --strict-lock …` sets."""
    mode = get_var("lock") or os.environ.get("DLM_LOCK", "")
    if mode not in MODES:
        raise InvalidDodoFile(f"lock={mode} is not known\n  → write lock=strict, lock=update or lock=ignore")
    return cast(Mode, mode)


def _creator(found: Project) -> Callable[[], Iterator[Any]]:
    def create() -> Iterator[Any]:
        for stage in STAGES:
            verb = stage.__name__.rpartition(".")[2]
            yield {"basename": verb, "name": None, "doc": stage.tasks.__doc__}
            if stage is not check:
                for task in _blocked(found, per_quantisation=stage in (merge, smoke, export)):
                    yield {"basename": verb, **task}
            for task in stage.tasks(found):
                yield {"basename": verb, **task} if isinstance(task, dict) else task

    return create


def _blocked(found: Project, *, per_quantisation: bool) -> Iterator[dict[str, Any]]:
    """Tasks of documents with mistakes: whatever is asked of them ends at their check, which says what is wrong."""
    for broken in found.broken:
        variants = [f":{quant}" for quant in QUANTISATIONS] if per_quantisation else []
        for variant in ("", *variants):
            yield {
                "name": broken.name + variant,
                "doc": f"{broken.path} has mistakes",
                "actions": None,
                "task_dep": [f"check:{broken.name}"],
            }


def _end_quietly() -> None:
    """Ctrl-C and SIGTERM end the build with one line instead of a page of doit's internals."""

    def interrupted(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.stderr.write("\ninterrupted; what was finished is kept, `doit` carries on from there\n")
        else:
            sys.__excepthook__(kind, error, trace)

    def terminate(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    sys.excepthook = interrupted
    with contextlib.suppress(ValueError):  # not in the main thread: somebody embeds doit and handles signals
        signal.signal(signal.SIGTERM, terminate)
