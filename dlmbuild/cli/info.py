"""`doit info TASK`: doit's own, which shows of a step the Python object, and of an unknown task a KeyError."""

from __future__ import annotations

from typing import Any

from doit import cmd_info
from doit.cmd_base import check_tasks_exist
from doit.control import TaskControl

from dlmbuild.cli.printing import Printing


class Info(Printing, cmd_info.Info):  # type: ignore[misc]
    """doit's command, asked about a task that exists; the state of a step of ours comes from the dry run."""

    name = "info"

    def _execute(self, pos_args: list[str], hide_status: bool = False) -> Any:
        tasks = TaskControl(self.task_list).tasks
        check_tasks_exist(tasks, pos_args)
        task = tasks[pos_args[0]] if pos_args else None
        step = (task.meta or {}).get("step") if task else None
        if step is None or hide_status or len(pos_args) > 1:
            return self._show(pos_args, step, hide_status)
        from dlmbuild.build.why import why

        finding = next(finding for finding in why(tasks, pos_args[:1]) if finding.task == pos_args[0])
        self._show(pos_args, step, hide_status=True)
        self.outstream.write(f"\nstatus     : {'up-to-date' if finding.verdict == 'ok' else finding.verdict}\n")
        self.outstream.writelines(f" * {cause}\n" for cause in finding.causes)
        self.dep_manager.close()
        return 0 if finding.verdict == "ok" else 1

    def _show(self, pos_args: list[str], step: Any, hide_status: bool) -> Any:
        for task in self.task_list if step else ():
            if task.name == step.name:
                task.meta = {"rule": step.rule}
        return super()._execute(pos_args, hide_status)
