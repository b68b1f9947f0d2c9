"""One task of the graph, and when it is up to date.

A step is up to date when a record with its key exists and every output still has the content that the record names. The
key covers the rule, the content of the inputs and the parameters, so a file with a new time and the old content, a lost
database or a new name for the document change nothing; a changed output is found out; and a step whose key has been
built before is restored from objects instead of being built again.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any, NamedTuple

from doit.exceptions import TaskFailed

from dlmbuild.build.reading import seen
from dlmbuild.build.reporter import watcher
from dlmbuild.errors import DlmError, StoreError
from dlmbuild.io.atomic import STAGING_SUFFIX, staging_folder, sweep_staging, write_atomic
from dlmbuild.io.digest import JSON
from dlmbuild.io.progress import Progress
from dlmbuild.io.statcache import StatCache
from dlmbuild.store.built import note_built, read_built
from dlmbuild.store.disk import disk_error
from dlmbuild.store.layout import BaseFolder, Home, Store
from dlmbuild.store.objects import Objects
from dlmbuild.store.outputs import Outputs
from dlmbuild.store.records import Ingredients, Record, Records


class Archive:
    """Everything built below one home, as steps see it."""

    def __init__(self, home: Home) -> None:
        self.home = home

    @cached_property
    def cache(self) -> StatCache:
        return StatCache(self.home.stat_cache)

    @cached_property
    def objects(self) -> Objects:
        return Objects(self.home.objects, self.cache)

    @cached_property
    def records(self) -> Records:
        return Records(self.home.records)

    def known(self, folder: Path) -> Records:
        """The records of earlier builds, and those that a pack brought for the document whose store is `folder`."""
        return Records(self.home.records, Store(folder).imported)

    def last(self, folder: Path, slot: str) -> Record | None:
        """The record of what a step built last in a store or base."""
        return self.known(folder).load(read_built(folder).get(slot, ""))


class Workplace(NamedTuple):
    """What the work of a step gets to see."""

    out: Path
    """An empty folder; the files left in it, by name, are the step's outputs."""
    params: Mapping[str, JSON]
    progress: Progress
    kept: Path
    """A folder for what an interrupted attempt leaves to the next one with the same key; gone after success."""
    key: str
    logs: Path
    """The folder that logs of jobs go to."""

    def run(self, job: str, *, needs: Sequence[str] = (), log: str = "", **given: Any) -> dict[str, Any]:
        """Run a job of this step, as `run_job` says, if the packages that it `needs` are here.

        What libraries print while it runs goes to the `log` of that name, by default of the job's.
        """
        from dlmbuild.jobs.local import require_extra, run_job

        require_extra(*needs)
        return run_job(job, out=self.out, log=self.logs / f"{log or job}.log", progress=self.progress, **given)


class State(NamedTuple):
    """What a step would be made from now, and what there is of an earlier build of the same."""

    made_from: Ingredients
    record: Record | None
    absent: str = ""
    """What another program lacks of what the record says, in words."""
    mismatch: str = ""
    """What lies here otherwise than the record says, in words."""
    noted: bool = False
    """Whether the step's last build came to its very end: a kill before that leaves something untold."""

    @property
    def is_fine(self) -> bool:
        return self.record is not None and self.noted and not (self.absent or self.mismatch)


@dataclass(kw_only=True)
class Step:
    """A task creator's description of one task."""

    name: str
    """doit's task name, `verb:document[:variant]`."""
    rule: str
    """Name and version of the rule; bump the version when the same inputs give other bytes."""
    inputs: Mapping[str, Path] = field(default_factory=dict)
    """Role → file whose whole content decides the result."""
    params: Callable[[], Mapping[str, JSON]] = dict
    """The rest of what decides the result. Called when the steps before are done: it may read parts of their files."""
    reads: Sequence[Path] = ()
    """Files that `params` and `work` read parts of: they order the graph without being compared as a whole."""
    outputs: Outputs
    work: Callable[[Workplace], Mapping[str, Any]]
    """Does the work and returns notes for the record."""
    store: Store | BaseFolder
    archive: Archive
    doc: str = ""
    light: bool = False
    """Whether the work takes milliseconds and needs nothing heavy: a dry run then does it, in a scratch folder."""
    places: Callable[[], Mapping[str, str]] = dict
    """Parts of what a light step makes (`sections[2]`) → what a person calls them (`section 3, line 41`)."""
    also_watched: Callable[[], Sequence[Path]] = tuple
    """Files and folders that `params` looks at, besides `inputs` and `reads`."""
    clean: bool = False
    guard: Callable[[], None] = lambda: None
    """Raises a DlmError where what lies here must not be used, however up to date it is."""
    impossible: Callable[[], DlmError] | None = None
    """For what cannot be done whatever is built before it: why. A build that would come to it does not begin."""
    done: Callable[[Record, bool], None] = lambda record, built: None
    """Told when the outputs are in place and before the lock is given back; `built` is false if they were restored."""
    continued: Callable[[Ingredients], Ingredients] = lambda made_from: made_from
    """What it is made from where it goes on from an earlier result: given is what it is made from if it does not."""
    elsewhere: Callable[[Record], str] | None = None
    """For what lies with another program: what it lacks of what the record says, in words. Asked each time."""
    summary: Callable[[Record], str] = lambda record: ""
    """What a person should know once the run is over."""

    @property
    def slot(self) -> str:
        """The step's name within its folder, without the document's or the base's: `train`, `export:Q4_K_M`."""
        verb, _, *variant = self.name.split(":")
        return ":".join([verb, *variant])

    # -- up to date? -------------------------------------------------------------------------------------------

    def ingredients(self) -> Ingredients | None:
        """What the step would be made from now; None while an input does not exist yet, or is damaged."""
        try:
            digests = {role: self.archive.cache.digest(seen(path)) for role, path in self.inputs.items()}
            return self.continued(Ingredients(self.rule, digests, dict(self.params())))
        except (FileNotFoundError, json.JSONDecodeError, KeyError):
            return None  # the step that makes the input finds out, and comes first

    def _made_from(self) -> Ingredients:
        """The same. Raises a DlmError where something is missing, or what lies here must not be used."""
        found = self.ingredients()
        if found is None:
            raise self._missing_input()
        self.guard()
        return found

    def state(self) -> State:
        """How the step is now. Raises a DlmError where it can neither be built nor be used."""
        made_from = self._made_from()
        record = self.known(made_from.key)
        if record is None:
            return State(made_from, None)
        mismatch = self.outputs.mismatch(record.outputs, self.archive.cache)
        return State(made_from, record, self._absent(record), mismatch, self.is_noted(made_from.key))

    def is_up_to_date(self) -> bool:
        """doit's question, asked just before the step would run."""
        try:
            return self.state().is_fine
        except Exception:
            return False  # `run` meets it again and tells it in words; here doit would end with a traceback

    def known(self, key: str) -> Record | None:
        """The record of an earlier build, here or, of a document that came in a pack, where it was packed."""
        return self.archive.known(self.store.root).load(key)

    def _absent(self, record: Record) -> str:
        return self.elsewhere(record) if self.elsewhere else ""

    def is_noted(self, key: str) -> bool:
        """Whether the step's last build is the one with this key, and came to its very end."""
        return read_built(self.store.root).get(self.slot) == key

    def watched(self) -> list[Path] | None:
        """Every file that the step's being up to date depends on; None if it is not, or if files do not tell."""
        current = self.ingredients()
        record = self.known(current.key) if current else None
        if current is None or record is None or not self.is_noted(current.key) or self.elsewhere:
            return None
        made = [*self.outputs.files(record.outputs), self.archive.known(self.store.root).path(current.key)]
        return [*self.inputs.values(), *self.reads, *self.also_watched(), *made, self.store.root / "built.json"]

    # -- doing it ----------------------------------------------------------------------------------------------

    def run(self) -> TaskFailed | None:
        """doit's action: restore or build. A person's mistake comes back as a failed task, in words."""
        try:
            self._build_or_restore()
        except DlmError as error:
            return TaskFailed(str(error))
        except Exception as error:
            told = disk_error(error, self.archive.home)
            return TaskFailed(str(told)) if told else self._bug()
        return None

    def _build_or_restore(self) -> None:
        from dlmbuild.store.exclusive import exclusive

        with exclusive(self.store.lock_file, self.name, lambda text: watcher().note(self.name, text)):
            self._sweep()
            current = self._made_from()  # after the wait for the lock, and before any work
            record = self.known(current.key)
            known = record is not None and all(map(self.archive.objects.has, record.outputs.values()))
            known = known and not (record and self._absent(record))
            if record is not None and known:
                self.outputs.publish(record.outputs, self.archive.objects)
            else:
                record = self._build(current)
            self.done(record, not known)
            note_built(self.store.root, self.slot, current.key)
            watcher().in_place(self.name, "restored from an earlier build" if known else "", self.summary(record))

    def _sweep(self) -> None:
        """Delete what a killed build left; the lock is ours. In a person's folder only what bears our target's name."""
        for place in {self.store.root, *(target.parent for target in self.outputs.targets.values())}:
            if place.is_relative_to(self.archive.home.root):
                sweep_staging(place)
        for target in self.outputs.targets.values():
            for left in target.parent.glob(f".{escape(target.name)}.*{STAGING_SUFFIX}"):
                left.unlink(missing_ok=True)

    def _build(self, current: Ingredients) -> Record:
        kept = self._kept(current.key)
        with staging_folder(self.store.root) as out:
            progress = watcher().progress(self.name)
            notes = self.work(Workplace(out, current.params, progress, kept, current.key, self.store.logs))
            now = self.ingredients()
            if now is None or now.key != current.key:
                raise StoreError(
                    f"what {self.name} is made from changed while it was being built",
                    why="the result would not belong to either state",
                    do="doit " + self.name,
                )
            outputs = {path.name: self.archive.objects.put(path) for path in sorted(out.iterdir())}
        record = Record(current, outputs, notes)
        self.archive.records.save(record)
        self.outputs.publish(outputs, self.archive.objects)
        shutil.rmtree(kept, ignore_errors=True)
        return record

    def _kept(self, key: str) -> Path:
        """What attempts at this key left behind; what attempts at other keys left is of no use any more."""
        verb = self.slot.replace(":", ".")
        kept = self.store.root / "cache" / "unfinished" / f"{verb}-{key[:16]}"
        for other in kept.parent.glob(f"{verb}-*"):
            if other != kept:
                shutil.rmtree(other, ignore_errors=True)
        return kept

    def _missing_input(self) -> StoreError:
        missing = [path for path in (*self.inputs.values(), *self.reads) if not path.exists()]
        named = missing[0] if missing else "an input"
        return StoreError(f"{named} is missing", why=f"{self.name} is made from it", do="doit " + self.name)

    def _bug(self) -> TaskFailed:
        log = self.archive.home.root / "crash.log"
        with contextlib.suppress(OSError):
            write_atomic(log, traceback.format_exc().encode())
        shown = traceback.format_exc() if os.environ.get("DLM_VERBOSE") else traceback.format_exc().splitlines()[-1]
        return TaskFailed(f"{shown}\n  this is a defect of dlmbuild, not of your document; the details are in {log}")

    # -- for doit ----------------------------------------------------------------------------------------------

    def task(self) -> dict[str, Any]:
        """The task as doit wants it; `name` is left to the creator."""
        return {
            "doc": self.doc,
            "actions": [(self.run,)],
            "file_dep": [str(path) for path in (*self.inputs.values(), *self.reads)],
            "targets": [str(path) for path in self.outputs.targets.values()],
            "uptodate": [(self.is_up_to_date,)],
            "clean": True if self.clean else [],
            "io": {"capture": False},
            "meta": {"step": self},
        }
