from __future__ import annotations

import io
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from doit.exceptions import TaskFailed, UnmetDependency

from dlmbuild.build.reporter import Reporter, watcher

ACTIVE, ALIAS = [lambda: None], None


def task(name: str, actions: Any = ACTIVE) -> Any:
    return SimpleNamespace(name=name, actions=actions, task_dep=[])


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def out(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Both streams of a build without a terminal."""
    stream = io.StringIO()
    monkeypatch.setattr(
        "dlmbuild.build.reporter.sys", SimpleNamespace(stderr=stream, argv=["doit"], exc_info=sys.exc_info)
    )
    return stream


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("dlmbuild.build.reporter.time.monotonic", lambda: clock.now)
    return clock


def reporter(out: io.StringIO) -> Reporter:
    made = Reporter(out, {})
    made.initialize({}, [])
    assert watcher() is made
    return made


def test_one_line_for_each_step_that_does_something(out: io.StringIO, clock: SimpleNamespace) -> None:
    report = reporter(out)
    report.skip_uptodate(task("base:b"))
    report.execute_task(task("train:a"))
    clock.now += 75.4
    report.in_place("train:a", "", "train:a is done\n  ask it")
    report.add_success(task("train:a"))
    report.execute_task(task("export:a", ALIAS))
    report.add_success(task("export:a", ALIAS))
    report.execute_task(task("smoke:a"))
    report.in_place("smoke:a", "restored from an earlier build", "")
    report.add_success(task("smoke:a"))
    report.complete_run()
    assert out.getvalue() == ("✓ train:a  1:15\n✓ smoke:a  restored from an earlier build\ntrain:a is done\n  ask it\n")


def test_nothing_to_do(out: io.StringIO) -> None:
    report = reporter(out)
    for name in ("check:a", "train:a"):
        report.skip_uptodate(task(name))
    report.skip_uptodate(task("export", ALIAS))
    report.complete_run()
    assert out.getvalue() == "everything is up to date (2 steps)\n"


def test_a_failure_is_told_once_and_nothing_is_called_up_to_date(out: io.StringIO) -> None:
    report = reporter(out)
    report.skip_uptodate(task("check:b"))
    report.execute_task(task("check:a"))
    report.add_failure(task("check:a"), TaskFailed("a.dlm:1:1: no\n  → do this"))
    report.add_failure(task("train:a"), UnmetDependency("check:a"))
    report.add_failure(task("export:a", ALIAS), UnmetDependency("train:a"))
    report.complete_run()
    told = out.getvalue()
    assert told.startswith("✗ check:a\n  a.dlm:1:1: no\n    → do this\n")
    assert told.count("check:a") == 2 and "train:a" in told and "export:a" not in told
    assert "up to date" not in told


def test_progress_without_a_terminal_is_a_line_now_and_then(out: io.StringIO, clock: SimpleNamespace) -> None:
    report = reporter(out)
    tell = report.progress("train:a")
    tell("loading")
    for step in range(101):
        tell("training", step, 100, loss=1.23456)
        clock.now += 1
    lines = out.getvalue().splitlines()
    assert lines[:2] == ["  train:a  loading", "  train:a  training"]
    assert lines[2] == "  train:a  training 15/100  loss 1.235  eta 1:25"
    assert len(lines) == 2 + 6


def test_progress_on_a_terminal_leaves_no_bar_behind(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    report = reporter(out)
    tell = report.progress("train:[a]")
    tell("loading")
    tell("training", 1, 2, loss=0.5)
    report.note("train:[a]", "waiting for [b]")
    report.in_place("train:[a]", "", "")
    report.complete_run()
    assert "waiting for [b]" in out.getvalue() and "train:[a]" in out.getvalue() and "loss 0.5" in out.getvalue()
    assert "✓ train:[a]" in out.getvalue().splitlines()[-1]


def test_nobody_watches_after_the_run(out: io.StringIO) -> None:
    reporter(out).complete_run()
    watcher().progress("x")("y", 1, 2, z=3)
    watcher().in_place("x", "", "summary")
    assert out.getvalue() == ""
    watcher().note("dataset:a", "two probes")
    assert out.getvalue() == "dataset:a: two probes\n"


def test_ignored_and_errors_of_the_graph(out: io.StringIO) -> None:
    report = reporter(out)
    report.skip_ignore(task("train:a"))
    report.runtime_error("task x is unknown")
    report.complete_run()
    assert out.getvalue() == ("- train:a  ignored (doit forget train:a takes it back)\ntask x is unknown\n")
