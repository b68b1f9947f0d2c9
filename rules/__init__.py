"""The graph: one file per stage, which says what a step reads, what it makes, and which function of dlmbuild does it.

A project's dodo.py is two lines:

    from dlmbuild.rules import project
    globals().update(project("*.dlm"))

Nothing heavier is imported here than what a build with nothing to do needs; graph.py puts the stages together.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any, cast

from doit import get_var
from doit.exceptions import InvalidDodoFile

from dlmbuild.build.abort import end_quietly
from dlmbuild.build.checker import DEFAULT, ExistenceChecker
from dlmbuild.build.reporter import Reporter, has_run_something
from dlmbuild.build.uptodate import created, plain_words, remembered_graph, still_true
from dlmbuild.io.streams import mend_streams
from dlmbuild.lock import MODES, Mode


def project(*patterns: str) -> dict[str, Any]:
    """What a dodo.py needs to build every document that matches a pattern below the current folder."""
    mend_streams()
    end_quietly()
    with _in_words():
        return _declared(patterns)


def _declared(patterns: tuple[str, ...]) -> dict[str, Any]:
    if not all(isinstance(pattern, str) for pattern in patterns):
        from dlmbuild.errors import UsageError

        given = ", ".join(map(repr, patterns))
        raise UsageError(f"project({given}) in dodo.py: a pattern is a text", do='write one such as "*.dlm"')
    if not patterns:
        from dlmbuild.errors import UsageError

        raise UsageError("project() in dodo.py names no documents", do='write project("*.dlm")')
    config = {
        "default_tasks": [*DEFAULT],
        "reporter": Reporter,
        "check_file_uptodate": ExistenceChecker,
        "backend": "dlm",
        "dep_file": ".doit.db",
        "par_type": "thread",
    }
    graph = _Graph(patterns, _lock_mode())
    _full()
    _refuse_misspelt()
    known = graph.remembered()
    if known is not None:
        return {"task_documents": lambda: (task for task in known), "DOIT_CONFIG": config}
    return {"DLM_PROJECT": graph.project, "task_documents": graph.create, "DOIT_CONFIG": config}


class _Graph:
    """The tasks of the documents that match some patterns."""

    def __init__(self, patterns: tuple[str, ...], lock_mode: Mode) -> None:
        self._patterns, self._lock_mode = patterns, lock_mode
        self._key = json.dumps(patterns)

    @cached_property
    def project(self) -> Any:
        from pathlib import Path

        from dlmbuild.build.project import Project

        return Project(Path.cwd(), self._patterns, self._lock_mode, full=_full())

    def create(self) -> Iterator[Any]:
        """Make all tasks, for doit."""
        from .graph import graph

        kept = created[self._key] = []
        with _in_words():
            for task in graph(self.project):
                kept.append(dict(task) if isinstance(task, dict) else task)  # doit takes the dictionaries apart
                yield task

    def remembered(self) -> list[Any] | None:
        """The tasks as the last build made them, if nothing has changed since: then all steps are up to date."""
        words = plain_words(sys.argv)
        note = still_true(words) if words is not None else None
        if note:
            gc.set_threshold(100_000)  # of what doit makes of a large graph nothing is ever in a cycle
        return remembered_graph(note, self._key, self._ask, self._run) if note else None

    @cached_property
    def _made(self) -> Mapping[str, dict[str, Any]]:
        tasks = (task for task in self.create() if isinstance(task, dict) and task["name"] is not None)
        return {f"{task['basename']}:{task['name']}": task for task in tasks}

    def _ask(self, name: str, noted: bool) -> bool:
        # A task of the person's own that has run may have changed anything: then the step itself is asked.
        known = noted and not has_run_something()
        return known or bool(self._made[name]["meta"]["step"].is_up_to_date())

    def _run(self, name: str) -> Any:
        action: Callable[[], Any] = self._made[name]["actions"][0][0]
        return action()


@contextmanager
def _in_words() -> Iterator[None]:
    """For the block, a mistake reaches doit as one in the dodo file, of which it prints the message alone."""
    try:
        yield
    except Exception as error:
        from dlmbuild.errors import DlmError

        if not isinstance(error, DlmError):
            raise
        raise InvalidDodoFile(str(error)) from error


def _lock_mode() -> Mode:
    """`doit lock=strict …`, or DLM_LOCK, which `dlm --strict-lock …` sets."""
    mode = get_var("lock") or os.environ.get("DLM_LOCK", "")
    if mode not in MODES:
        raise InvalidDodoFile(f"lock={mode} is not known\n  → write lock=strict, lock=update or lock=ignore")
    return cast(Mode, mode)


def _full() -> bool:
    """`doit full=true …`, or DLM_FULL, which `dlm --full …` sets."""
    asked = get_var("full") or os.environ.get("DLM_FULL", "")
    if asked not in ("", "true"):
        raise InvalidDodoFile(f"full={asked} is not known\n  → write full=true, or leave it out")
    return bool(asked)


def _refuse_misspelt() -> None:
    """What is meant for us must not be passed over; any other name is free for a person's own dodo.py."""
    for word in sys.argv[1:]:
        if "=" not in word or word.startswith("-"):
            continue
        from dlmbuild.doc.mistakes import nearest

        name, _, value = word.partition("=")
        near = nearest(name, ("lock", "full"))
        taken = {"lock": MODES, "full": ("true",)}.get(near, ())
        ours = name != near and name[:1].lower() == near[:1] and value and value in taken
        if ours and get_var(name) == value:
            raise InvalidDodoFile(f"{word} is not known\n  → write {near}={value}")
