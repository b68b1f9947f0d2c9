"""`doit clean [TASK …]`: doit's own, which says nothing where nothing can be removed and where nothing matches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from doit import cmd_clean
from doit.control import TaskControl

from dlmbuild.build.checker import is_ours
from dlmbuild.build.selection import selected
from dlmbuild.cli.printing import Printing


class Clean(Printing, cmd_clean.Clean):  # type: ignore[misc]
    """doit's command, which also says what it keeps of the tasks that it was asked to clean."""

    name = "clean"

    def _execute(
        self, dryrun: bool, cleandep: bool, cleanall: bool, cleanforget: bool, pos_args: list[str] | None = None
    ) -> None:
        words = pos_args or []
        tasks = TaskControl(self.task_list).tasks
        found = {word: selected([word], tasks) for word in words if selected(words, tasks)}
        super()._execute(dryrun, cleandep, cleanall, cleanforget, pos_args)
        kept = [
            word
            for word, names in found.items()
            if all(map(is_ours, names)) and not any(_cleans(name, tasks, cleandep) for name in names)
        ]
        if kept:
            self.outstream.write(
                f"nothing of {', '.join(kept)} is removed: what was trained, its history and what it was made from are "
                "kept\n  → `doit clean` takes exports, packs and reports; `dlm gc` says what nothing needs any more\n"
            )


def _cleans(name: str, tasks: Mapping[str, Any], with_needed: bool) -> bool:
    """Whether there is anything that cleaning a task does."""
    seen: set[str] = set()

    def visit(name: str) -> Iterator[Any]:
        if name not in seen:
            seen.add(name)
            yield tasks[name]
            for other in tasks[name].task_dep:
                if with_needed or tasks[other].subtask_of == name:
                    yield from visit(other)

    return any(task._remove_targets or task.clean_actions for task in visit(name))
