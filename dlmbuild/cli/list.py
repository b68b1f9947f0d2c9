"""`doit list`: doit's own, which calls every task that only stands for others out of date."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from doit import cmd_list
from doit.control import TaskControl

from dlmbuild.build.selection import selected
from dlmbuild.cli.printing import Printing

_WORST = "ERIU"


class List(Printing, cmd_list.List):  # type: ignore[misc]
    """doit's command with the true state of groups, and with a word where there is nothing to build."""

    name = "list"

    def execute(self, opt_values: Any, pos_args: list[str]) -> Any:
        self._tasks: dict[str, Any] = {}
        self._states: dict[str, str] = {}
        code = super().execute(opt_values, pos_args)
        self.dep_manager.close()
        for task in self.task_list:
            if task.meta and "remark" in task.meta:
                print(task.meta["remark"], file=sys.stderr)
        return code

    @staticmethod
    def _list_filtered(tasks: Mapping[str, Any], filter_tasks: list[str], include_subtasks: bool) -> list[Any]:
        return list(cmd_list.List._list_filtered(tasks, selected(filter_tasks, tasks), include_subtasks))

    def _print_task(self, template: str, task: Any, status: bool, list_deps: bool, tasks: Mapping[str, Any]) -> None:
        state = ""
        if status:
            if not self._tasks:  # doit's control knows what follows from files, and adds it to each `task_dep`
                self._tasks = TaskControl(self.task_list).tasks
            state = self._state(task)
        self.outstream.write(template.format(name=task.name, doc=task.doc, status=state))
        if list_deps:
            self.outstream.writelines(f" -  {dep}\n" for dep in task.file_dep)
            self.outstream.write("\n")

    def _state(self, task: Any) -> str:
        """The worst letter among a task's own and those of all that it needs."""
        if task.name not in self._states:
            needed = (self._tasks[name] for name in (*task.task_dep, *task.setup_tasks))
            self._states[task.name] = min([self._letter(task), *map(self._state, needed)], key=_WORST.index)
        return self._states[task.name]

    def _letter(self, task: Any) -> str:
        """The letter of a task by itself."""
        if self.dep_manager.status_is_ignore(task):
            return "I"
        if not (task.actions or task.file_dep or task.uptodate):
            return "U"  # it only stands for others
        return str(self.STATUS_MAP[self.dep_manager.get_status(task, self._tasks).status])
