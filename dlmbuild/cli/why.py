"""`doit why [TASK …]`: what a build would do and why, without building anything."""

from __future__ import annotations

from dataclasses import asdict

from doit.cmd_base import DoitCmdBase
from doit.control import TaskControl

from dlmbuild.build.selection import refuse_impossible, selected
from dlmbuild.cli.printing import Printing
from dlmbuild.cli.words import as_json


class Why(Printing, DoitCmdBase):  # type: ignore[misc]
    """A command of doit's, so that it knows the graph; installed for `doit` and `dlm` alike."""

    name = "why"
    doc_purpose = "say what a build would do and why, without building"
    doc_usage = "[TASK ...]"
    doc_description = "The exit code is 0 if nothing would be built, 1 if something would."
    cmd_options = (
        {"name": "json", "long": "json", "type": bool, "default": False, "help": "as JSON, for programs"},
        {"name": "all", "short": "a", "long": "all", "type": bool, "default": False, "help": "also what is up to date"},
    )

    def _execute(self, json: bool, all: bool, pos_args: list[str] | None = None) -> int:
        from dlmbuild.build.why import why

        control = TaskControl(self.task_list)
        control.process(selected(pos_args or [], control.tasks) or self.sel_tasks)
        refuse_impossible(control.tasks, control.selected_tasks)
        findings = why(control.tasks, control.selected_tasks)
        self.dep_manager.close()
        work = [finding for finding in findings if finding.verdict != "ok"]
        if json:
            self.outstream.write(as_json([asdict(finding) for finding in findings]) + "\n")
            return 1 if work else 0
        for finding in findings if all else work:
            first, *rest = finding.causes or [""]
            self.outstream.write(f"{finding.verdict:<8} {finding.task:<28} {first}".rstrip() + "\n")
            for cause in rest:
                self.outstream.write(f"{'':38}{cause}\n")
        self.outstream.write(f"{len(findings) - len(work)} of {len(findings)} steps are up to date\n")
        return 1 if work else 0
