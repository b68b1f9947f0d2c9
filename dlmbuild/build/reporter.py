"""What a person sees while steps run: one line for each step that does something, progress with an ETA, nothing else.

On a terminal the running step has a live bar; anywhere else a line now and then.
"""

from __future__ import annotations

import io
import shlex
import sys
import time
from collections.abc import Callable
from typing import IO, Any

from doit.exceptions import UnmetDependency

from dlmbuild.build.checker import DEFAULT, is_ours
from dlmbuild.build.uptodate import created, plain_words, write_note
from dlmbuild.io.progress import Progress, silent
from dlmbuild.io.streams import write_nowhere

_EVERY_SECONDS = 15.0
"""How often a step without a terminal says how far it is."""


class Reporter:
    """doit's reporter (see doit's manual, "reporter"), and the ear of the steps."""

    desc = "one line per step that does something"

    def __init__(self, outstream: IO[str], options: dict[str, Any]) -> None:
        self._out = outstream or sys.stdout  # doit has none where standard output is closed
        for stream in (self._out, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal without ✓ shows ? and the build goes on
        self._started: dict[str, float] = {}
        self._failed: list[str] = []
        self._ran = 0
        self.has_run = False
        self._fresh = 0
        self._ignored: set[str] = set()
        self._summaries: list[str] = []
        self._bars: Any = None
        self._rows: dict[str, Any] = {}
        self._last_line: dict[str, float] = {}

    # -- doit's side -------------------------------------------------------------------------------------------

    def initialize(self, tasks: Any, selected: Any) -> None:
        global _current
        _current, self._tasks = self, (tasks, list(selected))
        from dlmbuild.build.selection import refuse, refuse_impossible, unmatched

        refuse(unmatched(sys.argv[1:], tasks))
        refuse_impossible(tasks, selected)

    def get_status(self, task: Any) -> None:
        pass

    def execute_task(self, task: Any) -> None:
        if task.actions:
            self.has_run = True
            self._started[task.name] = time.monotonic()

    def add_success(self, task: Any) -> None:
        if task.actions:
            self._ran += 1
            self._end_row(task.name)

    def add_failure(self, task: Any, fail: Any) -> None:
        self._end_row(task.name)
        self._failed.append(task.name)
        if isinstance(fail, UnmetDependency):
            if task.actions:
                self._line(f"- {task.name}  not built, because {fail.message} failed", err=True)
        elif fail.report:
            self._line(f"✗ {task.name}", err=True)
            self._line("  " + fail.get_msg().strip().replace("\n", "\n  "), err=True)

    def skip_uptodate(self, task: Any) -> None:
        if task.actions:
            self._fresh += 1

    def skip_ignore(self, task: Any) -> None:
        causes = [name for name in task.task_dep if name in self._ignored]
        self._ignored.add(task.name)
        if not causes:
            self._line(f"- {task.name}  ignored (doit forget {shlex.quote(task.name)} takes it back)")
        elif task.actions:
            self._line(f"- {task.name}  ignored with {causes[0]}")

    def cleanup_error(self, exception: Any) -> None:
        self._line(exception.get_msg(), err=True)

    def runtime_error(self, msg: str) -> None:
        self._failed.append("")
        self._line(msg, err=True)

    def teardown_task(self, task: Any) -> None:
        pass

    def complete_run(self) -> None:
        global _current
        self._stop_bars()
        _current = _Nobody()
        for summary in self._summaries:
            self._line(summary)
        if self._failed or sys.exc_info()[0] is not None:  # doit comes here when it is interrupted, too
            return
        if self._ignored:
            if not self._ran and self._fresh:
                self._line(f"what is not ignored is up to date ({self._fresh} steps)")
            return
        if not self._ran and self._fresh:
            self._line(f"everything is up to date ({self._fresh} steps)")
        self._note_it()

    def _note_it(self) -> None:
        """Leave a note to the next build, if this one made its graph, was asked for nothing else than what the command
        line says (it may have been called by a program), and all that it needed are steps of ours.
        """
        words = plain_words(sys.argv) if created else None
        tasks, selected = self._tasks
        if words is None or selected != (words or [*DEFAULT]) or not all(map(is_ours, selected)):
            return
        from dlmbuild.build.project import Project
        from dlmbuild.build.why import steps_of

        steps = steps_of(tasks, selected)
        if steps is not None:
            write_note(words, steps, Project.noticed)

    # -- the steps' side ---------------------------------------------------------------------------------------

    def note(self, step: str, text: str) -> None:
        """One line about a step."""
        self._line(f"  {step}  {text}")

    def in_place(self, step: str, how: str, summary: str) -> None:
        """The outputs of a step are in place; `how` says it if they were not made now."""
        took = time.monotonic() - self._started.get(step, time.monotonic())
        self._end_row(step)
        self._line("  ".join(filter(None, (f"✓ {step}", how, _duration(took) if took >= 1 else ""))))
        if summary:
            self._summaries.append(summary)

    def progress(self, step: str) -> Progress:
        """The Progress that draws for `step`."""
        draw: Callable[..., None] = self._draw_bar if self._out.isatty() else self._draw_line

        def tell(what: str, done: float = 0, total: float = 0, **numbers: float) -> None:
            draw(step, what, done, total, " ".join(f"{name} {value:.4g}" for name, value in numbers.items()))

        return tell

    def _draw_line(self, step: str, what: str, done: float, total: float, numbers: str) -> None:
        now = time.monotonic()
        first = step + what not in self._last_line
        if not first and now - self._last_line[step + what] < _EVERY_SECONDS:
            return
        if first:
            self._rows[step] = now
        self._last_line[step + what] = now
        text = f"  {step}  {what}"
        if total and not first:
            left = (now - self._rows[step]) / done * (total - done) if done else 0
            text += f" {done:.0f}/{total:.0f}" + (f"  {numbers}" if numbers else "") + f"  eta {_duration(left)}"
        self._line(text)

    def _draw_bar(self, step: str, what: str, done: float, total: float, numbers: str) -> None:
        if self._bars is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bars

            columns = (
                TextColumn("  {task.fields[step]}  {task.description}"),
                BarColumn(bar_width=12),
                TextColumn("{task.fields[numbers]}"),
                TextColumn("eta"),
                TimeRemainingColumn(compact=True),
            )
            self._bars = Bars(*columns, console=Console(file=self._out), transient=True)
            self._bars.start()
        if step not in self._rows:
            self._rows[step] = self._bars.add_task(what, total=total or None, step=step, numbers=numbers)
        self._bars.update(
            self._rows[step], description=what, completed=done, total=total or None, numbers=numbers, refresh=True
        )

    def _end_row(self, step: str) -> None:
        row = self._rows.pop(step, None)
        if self._bars is not None and row is not None:
            self._bars.remove_task(row)
            if not self._rows:
                self._stop_bars()

    def _stop_bars(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def _line(self, text: str, *, err: bool = False) -> None:
        if self._bars is not None:
            self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)
        else:
            stream = sys.stderr if err else self._out
            try:
                stream.write(text + "\n")
                stream.flush()
            except OSError:  # the reader has gone, or the disk that it went to is full: no reason to stop building
                write_nowhere(2 if err else 1)


class _Nobody:
    """Watches when no run is on, for example while a command calls a step's parts directly."""

    def note(self, step: str, text: str) -> None:
        print(f"{step}: {text}", file=sys.stderr)

    def in_place(self, step: str, how: str, summary: str) -> None:
        pass

    def progress(self, step: str) -> Progress:
        return silent


_current: Reporter | _Nobody = _Nobody()


def has_run_something() -> bool:
    """Whether the run that is on has begun to execute any task, of ours or of the person's own."""
    return isinstance(_current, Reporter) and _current.has_run


def watcher() -> Reporter | _Nobody:
    """Whoever watches this run."""
    return _current


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"
