"""`doit info TASK`: doit's own, which for an unknown task ends with a KeyError."""

from __future__ import annotations

from typing import Any

from doit import cmd_info
from doit.cmd_base import check_tasks_exist


class Info(cmd_info.Info):  # type: ignore[misc]
    """doit's command, asked about a task that exists."""

    def _execute(self, pos_args: list[str], hide_status: bool = False) -> Any:
        check_tasks_exist({task.name for task in self.task_list}, pos_args)
        return super()._execute(pos_args, hide_status)
