"""The trainings of a document as their logs tell them, and the same as a database for whoever likes to ask in SQL.

Each attempt at a training has a log of JSON lines. The build writes `start` and at last `done`, `failed` or `killed`
(here); the process that trains writes `begin`, one line per step with TRL's names, and `end` (train/watch.py). The logs
are all there is to know; metrics.sqlite is made of them and can be deleted at any time.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dlmbuild.errors import DlmError
from dlmbuild.io.atomic import STAGING_SUFFIX
from dlmbuild.store.exclusive import holder
from dlmbuild.store.layout import Store
from dlmbuild.store.manifest import now

_TABLES = """
PRAGMA journal_mode = OFF;  -- nobody reads the file before it is whole
CREATE TABLE runs (run INTEGER PRIMARY KEY, phase TEXT, key TEXT, status TEXT, started TEXT, ended TEXT, seed INTEGER,
                   adapter TEXT, steps INTEGER, of INTEGER, adapter_version TEXT, error TEXT);
CREATE TABLE steps (run INTEGER, step INTEGER, name TEXT, value REAL, PRIMARY KEY (run, step, name)) WITHOUT ROWID;
"""


_PHASES = ("train", "prefer")


@dataclass
class Run:
    """One training, over however many attempts."""

    run: int
    """Counted from 1, in the order in which they began."""
    phase: str
    """"train" or "prefer"."""
    adapter: str | None
    """Which of the document's adapters, where it names any."""
    key: str
    """Of the step that it is the work of."""
    started: str
    """UTC."""
    seed: int | None
    status: str = "killed"
    """"ok", "failed", "running", or "killed": it neither ended nor runs."""
    ended: str | None = None
    """UTC; None where nothing was left to tell it."""
    of: int = 0
    """Optimizer steps that it takes in all; 0 before the first."""
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


@contextmanager
def attempt(store: Store, log: Path, **facts: Any) -> Iterator[None]:
    """Tell the log that an attempt starts, and, unless the block comes to its end, how it ended. The lock is held."""
    tell(log, "start", **facts, started=now())
    try:
        yield
    except BaseException as error:
        words = f"{type(error).__name__}: {error}"
        if isinstance(error, DlmError):
            words = f"{error.what}: {error.why}".removesuffix(": ")
        if isinstance(error, Exception):
            tell(log, "failed", error=words, ended=now())
        else:
            tell(log, "killed", ended=now())
        refresh_database(store)
        raise


def note_version(store: Store, key: str, version: str) -> None:
    """Tell the log of the last attempt at `key` that an adapter version came of it."""
    for log in reversed(_logs(store)):
        if any(line.get("event") == "start" and line.get("key") == key for line in _lines(log)):
            tell(log, "done", version=version, ended=now())
            break
    refresh_database(store)


def tell(log: Path, event: str, **more: Any) -> None:
    """Add a line to a log. A disk that is full is no reason to lose a training."""
    with suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a+b") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
            begun = file.read() not in (b"", b"\n")  # the line that a kill left half written stays by itself
            file.write(b"\n" * begun + json.dumps({"event": event, **more}).encode() + b"\n")


def runs(store: Store) -> list[Run]:
    """All trainings of a document; the last one is the one that was worked on last."""
    found: list[Run] = []
    for log in _logs(store):
        _read(log, found)
    for run in found:
        if run.status == "killed" and not run.ended:  # nobody told how it ended
            if run is found[-1] and holder(store.lock_file).startswith(f"{run.phase}:"):
                run.status, run.error = "running", ""
            elif run.error:
                run.status = "failed"
    return found


def refresh_database(store: Store) -> None:
    """Write metrics.sqlite anew, all of it or nothing. It is no output: where it cannot be written, there is none."""
    with suppress(OSError, sqlite3.Error):
        _write(runs(store), store.metrics)


def _write(found: list[Run], path: Path) -> None:
    staging = path.with_name(f".{path.name}.{os.getpid()}{STAGING_SUFFIX}")
    staging.unlink(missing_ok=True)
    with closing(sqlite3.connect(staging)) as database, database:
        database.executescript(_TABLES)
        for run in found:
            told = (run.run, run.phase, run.key, run.status, run.started, run.ended, run.seed, run.adapter)
            row = (*told, len(run.steps), run.of, run.adapter_version, run.error)
            database.execute(f"INSERT INTO runs VALUES ({','.join('?' * len(row))})", row)
            database.executemany("INSERT INTO steps VALUES (?,?,?,?)", run.values())
    staging.replace(path)


def _logs(store: Store) -> list[Path]:
    """The logs of all attempts, the oldest first. They are named <phase>-<number>-<time>.jsonl."""
    named = ((log.stem.split("-"), log) for log in store.logs.glob("*-*-*.jsonl"))
    known = [(words[::-1], log) for words, log in named if words[0] in _PHASES and len(words) == 3]
    return [log for _, log in sorted(known)]


def _read(log: Path, found: list[Run]) -> None:
    """Add what a log tells: a run of its own, or how an earlier attempt at the same went on."""
    mine: Run | None = None
    for line in _lines(log):
        event, version = line.get("event"), line.get("version")
        if event == "start":
            seed = line.get("seed")
            phase, key, started = log.stem.partition("-")[0], _text(line.get("key")), _text(line.get("started"))
            named = _text(line["adapter"]) if "adapter" in line else None
            mine = Run(len(found) + 1, phase, named, key, started, seed if _is_count(seed) else None)
            found.append(mine)
        elif mine is None:
            continue
        elif event == "begin" and _is_count(line.get("from")) and _is_count(line.get("of")):
            before = next((run for run in found[-2::-1] if (run.phase, run.key) == (mine.phase, mine.key)), None)
            if line["from"] and before:  # from a checkpoint: this attempt goes on with that run
                found.pop()
                found.remove(before)
                found.append(before)
                mine, mine.status, mine.ended, mine.error = before, "killed", None, ""
                mine.steps = {step: row for step, row in mine.steps.items() if step <= line["from"]}
            mine.of = line["of"]
        elif event == "end":
            mine.error = "it was trained to the end, and then its adapter was not put in place"
        elif event == "done":
            mine.status, mine.error, mine.adapter_version = "ok", "", _text(version)
        elif event in ("failed", "killed"):
            mine.status, mine.error = event, _text(line.get("error", ""))
        elif _is_count(line.get("step")):
            row = {name: value for name, value in line.items() if _is_number(value) and name.isprintable()}
            del row["step"]
            mine.steps[line["step"]] = row
        if event in ("done", "failed", "killed"):
            mine.ended = _text(line.get("ended"))


def _text(value: object) -> str:
    """What may be shown on a terminal and put into a database of a text that anybody may have written."""
    return "".join(char if char.isprintable() else " " for char in str(value))


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**53


def _is_number(value: object) -> bool:
    return isinstance(value, float) or _is_count(value)


def _lines(log: Path) -> Iterator[Mapping[str, Any]]:
    """The lines that are whole; a kill may leave half of one."""
    try:
        lines = log.read_bytes().splitlines()
    except OSError:
        return
    for line in lines:
        try:
            data = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(data, dict):
            yield data
