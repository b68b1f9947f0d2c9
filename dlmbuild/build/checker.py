"""What doit asks about files, reduced to what it still has to decide.

Whether a step is up to date is answered by its record (build/step.py). doit's own checkers hash inputs after the run,
trust equal mtimes and never look at outputs, so this one sees existence only.
"""

from __future__ import annotations

import os
from typing import Any

from doit.dependency import FileChangedChecker


class ExistenceChecker(FileChangedChecker):  # type: ignore[misc]
    """A dependency is fine if it is there; its content is compared by the step's own fingerprint."""

    def check_modified(self, file_path: str, file_stat: os.stat_result, state: Any) -> bool:
        return False

    def get_state(self, dep: str, current_state: Any) -> None:
        return None  # nothing to save
