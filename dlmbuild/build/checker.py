"""What doit asks about the files of our steps, reduced to what it still has to decide.

Whether a step is up to date is answered by its record (build/step.py). doit's own checkers hash inputs after the run,
trust equal mtimes and never look at outputs, so this one sees existence only.
"""

from __future__ import annotations

import os
from typing import Any

from doit.dependency import MD5Checker

from dlmbuild.doc.names import VERBS

DEFAULT = ("export", "gate", "evaluate:_default")
"""What a build without words builds; the last stands for the documents that say what their models must reach."""


def is_ours(task: str) -> bool:
    """Whether a task is a step of ours."""
    return task.partition(":")[0] in VERBS


class ExistenceChecker(MD5Checker):  # type: ignore[misc]
    """A dependency of a step is fine if it is there; its content is compared by the step's own fingerprint.

    The database gives the state True for those. The files of a person's own tasks are compared as stock doit does it.
    """

    def check_modified(self, file_path: str, file_stat: os.stat_result, state: Any) -> bool:
        return state is not True and bool(super().check_modified(file_path, file_stat, state))

    def get_state(self, dep: str, current_state: Any) -> Any:
        return None if current_state is True else super().get_state(dep, current_state)
