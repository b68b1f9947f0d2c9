"""The trainings of a document as their logs tell them, and the same as a database for whoever likes to ask in SQL.

A training writes JSON lines while it runs (train/watch.py): `begin`, one line per step with TRL's names, and `end` or
`failed`. The logs are all there is to know; metrics.sqlite is made of them and can be deleted at any time.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dlmbuild.io.atomic import STAGING_SUFFIX
from dlmbuild.store.exclusive import holder
from dlmbuild.store.layout import Store
from dlmbuild.store.manifest import read_manifest

_TABLES = """
CREATE TABLE runs (run INTEGER PRIMARY KEY, phase TEXT, status TEXT, started TEXT, seed INTEGER, steps INTEGER,
                   of INTEGER, adapter_version TEXT, error TEXT);
CREATE TABLE steps (run INTEGER, step INTEGER, name TEXT, value REAL, PRIMARY KEY (run, step, name)) WITHOUT ROWID;
"""


@dataclass
class Run:
    """One training, over however many attempts."""

    run: int
    """Counted from 1, in the order in which they began."""
    phase: str
    """"train" or "prefer"."""
    started: str
    """UTC."""
    seed: int | None
    of: int
    """Optimizer steps that it takes in all."""
    status: str = "killed"
    """"ok", "failed", "running", or "killed": it neither ended nor runs."""
    error: str = ""
    adapter_version: str | None = None
    steps: dict[int, dict[str, float]] = field(default_factory=dict)
    """Step, counted from 1 → name → value; what was done again after a kill is there once."""

    def as_data(self) -> dict[str, Any]:
        return {**asdict(self), "steps": [{"step": step, **self.steps[step]} for step in sorted(self.steps)]}

    def values(self) -> Iterator[tuple[int, int, str, float]]:
        """(run, step, name, value) of all that was measured."""
        for step in sorted(self.steps):
            yield from ((self.run, step, name, value) for name, value in sorted(self.steps[step].items()))

    def curve(self, name: str) -> list[float]:
        """The values of one name, by step."""
        return [self.steps[step][name] for step in sorted(self.steps) if name in self.steps[step]]


def runs(store: Store, dlm_id: str) -> list[Run]:
    """All trainings of a document, the oldest first."""
    found: list[Run] = []
    numbered: dict[str, Run] = {}
    for log in sorted((log for log in store.logs.glob("*.jsonl") if log.stem.count("-") == 2), key=_time_of):
        _read(log, found)
        if found:
            numbered[log.stem.split("-")[1]] = found[-1]
    for told in read_manifest(store.manifest, dlm_id)["training_runs"]:
        run = numbered.get(f"{told.get('run', 0):06d}")
        if run and run.status == "ok":
            run.adapter_version = told.get("adapter_version")
    if found and found[-1].status == "killed" and holder(store.lock_file).startswith(f"{found[-1].phase}:"):
        found[-1].status = "running"
    return found


def refresh_database(store: Store, dlm_id: str) -> None:
    """Write metrics.sqlite anew, all of it or nothing. It is no output: where it cannot be written, there is none."""
    with suppress(OSError, sqlite3.Error):
        _write(runs(store, dlm_id), store.metrics)


def _write(found: list[Run], path: Path) -> None:
    staging = path.with_name(f".{path.name}.{os.getpid()}{STAGING_SUFFIX}")
    staging.unlink(missing_ok=True)
    with closing(sqlite3.connect(staging)) as database, database:
        database.executescript(_TABLES)
        for run in found:
            row = (run.run, run.phase, run.status, run.started, run.seed, len(run.steps), run.of)
            database.execute("INSERT INTO runs VALUES (?,?,?,?,?,?,?,?,?)", (*row, run.adapter_version, run.error))
            database.executemany("INSERT INTO steps VALUES (?,?,?,?)", run.values())
    staging.replace(path)


def _time_of(log: Path) -> tuple[str, str]:
    phase, number, started = log.stem.split("-")
    return started, number + phase


def _read(log: Path, found: list[Run]) -> None:
    """Add what a log tells: a run of its own, or how the last one went on."""
    phase = log.stem.partition("-")[0]
    mine: Run | None = None
    for line in _lines(log):
        if line.get("event") == "begin":
            mine = found[-1] if found else None
            if line["from"] and mine and (mine.phase, mine.of) == (phase, line["of"]):  # it goes on from a checkpoint
                mine.status, mine.error = "killed", ""
                mine.steps = {step: row for step, row in mine.steps.items() if step <= line["from"]}
            else:
                mine = Run(len(found) + 1, phase, line["started"], line.get("seed"), line["of"])
                found.append(mine)
        elif mine is None:
            continue
        elif line.get("event") == "end":
            mine.status = "ok"
        elif line.get("event") == "failed":
            mine.status, mine.error = "failed", str(line.get("error"))
        elif isinstance(line.get("step"), int):
            mine.steps[line["step"]] = {n: value for n, value in line.items() if n != "step" and _is_number(value)}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _lines(log: Path) -> Iterator[Mapping[str, Any]]:
    """The lines that are whole; a kill may leave half of one."""
    try:
        text = log.read_text("utf-8", "replace")
    except OSError:
        return
    for line in text.splitlines():
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(data, dict) and (data.get("event") != "begin" or {"from", "of", "started"} <= data.keys()):
            yield data
