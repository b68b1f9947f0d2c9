"""Where a training begins: from the start, or, with `training.incremental: warm`, from the adapter that was in place.

Which adapter that was is read from built.json and the records of trainings, each of which names the one before it. A
training of the present rows among them is what there is to build, however it was made: building twice never trains
twice, and an edit that is taken back brings its adapter back. Else the newest is gone on from, if only rows changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dlmbuild.build.project import Project
from dlmbuild.build.reading import read_json, seen
from dlmbuild.build.trained import Trained
from dlmbuild.errors import StoreError
from dlmbuild.store.built import read_built
from dlmbuild.store.objects import Objects
from dlmbuild.store.outputs import AdapterVersions
from dlmbuild.store.records import Ingredients, Record, Records

BESIDE = 5
"""Rows that did not change which go along in each epoch for each one that did."""
LONGEST_CHAIN = 8
"""Trainings that go on from each other before one begins from the start again."""
_WEIGHTS = "adapter_model.safetensors"
_PARENT, _ITS_ROWS = "parent adapter", "parent rows"
"""Roles of what a record was made from."""


@dataclass(frozen=True, slots=True)
class Beginning:
    """How a training begins, decided by what was trained before."""

    ingredients: Ingredients
    before: str
    """The key of the training before it."""
    why: str = ""
    """Why it begins from the start."""


@dataclass(frozen=True, slots=True)
class Start:
    """What a training is told of its beginning."""

    words: str
    before: str
    inputs: Mapping[str, Path] = field(default_factory=dict)
    """The job's: `parent`, the weights to go on from; empty where it begins from the start."""
    warm: Mapping[str, Any] | None = None
    """The numbers of `changed` rows, how many rows go `beside` them in each epoch, and the length of the `chain`."""
    about: Mapping[str, Any] = field(default_factory=dict)

    def told(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """The numbers of the run with what is to be known of its beginning."""
        return {**run, "warm": {**run["warm"], **self.about}} if self.warm else {**run, **self.about}


class Lineage:
    """The trainings of one adapter of a document that says `training.incremental: warm`."""

    def __init__(self, trained: Trained, project: Project) -> None:
        self._trained, self._full, self._archive = trained, project.full, project.archive
        self._imported = trained.store.imported
        self._records = project.archive.known(trained.store.root)
        self._decided: dict[str, Beginning] = {}

    def continued(self, whole: Ingredients) -> Ingredients:
        """What the adapter is made from now; `whole` is what it would be made from if it began from the start."""
        if not is_warm(self._trained):
            return whole
        beginning = self._begin(whole)
        self._decided[beginning.ingredients.key] = beginning
        return beginning.ingredients

    @property
    def _objects(self) -> Objects:
        return self._archive.objects

    def _begin(self, whole: Ingredients) -> Beginning:
        head = read_built(self._trained.store.root).get(self._trained.slot("train"), "")
        if self._full:
            return Beginning(whole, head, "it was asked for")
        for record in (*self._back_from(head), *Records(self._imported).every()):
            if _from_the_start(record.ingredients) == whole and self._can_be_had(record):
                return Beginning(record.ingredients, record.notes.get("before", ""), "it was before")
        last = self._records.load(head)
        if last is None:
            return Beginning(whole, head, "no earlier training is known")
        if why := self._why_full(last, whole):
            return Beginning(whole, head, why)
        inputs = {_PARENT: last.outputs[_WEIGHTS], _ITS_ROWS: last.ingredients.inputs["dataset"]}
        warm = {"chain": _chain(last.ingredients) + 1, "beside": BESIDE}
        made_from = replace(whole, inputs={**whole.inputs, **inputs}, params={**whole.params, "warm": warm})
        return Beginning(made_from, head)

    def _back_from(self, key: str) -> Iterator[Record]:
        known: set[str] = set()
        while key not in known and (record := self._records.load(key)):
            yield record
            known.add(key)
            key = record.notes.get("before", "")

    def _can_be_had(self, record: Record) -> bool:
        """Whether what a training made is still there, or can be made again."""
        inputs = record.ingredients.inputs
        if _PARENT not in inputs or all(map(self._objects.has, record.outputs.values())):
            return True
        return self._objects.has(inputs[_PARENT]) and self._rows_of(inputs[_ITS_ROWS]) is not None

    def _why_full(self, last: Record, whole: Ingredients) -> str:
        """Why a training from the start has to follow `last`; "" if it can be gone on from."""
        from dlmbuild.build.differences import differences

        before = _from_the_start(last.ingredients)
        if self._trained.prefers:
            return "the document has preferences"
        if before.rule != whole.rule:
            return f"dlmbuild trains in a new way ({before.rule} → {whole.rule})"
        for difference in differences(dict(before.params), dict(whole.params)):
            return f"more changed than the rows: {difference.replace('plan.', 'training.', 1)}"
        if {**before.inputs, "dataset": ""} != {**whole.inputs, "dataset": ""}:
            return "what the base says by itself is another now"
        if _chain(last.ingredients) >= LONGEST_CHAIN:
            return f"{LONGEST_CHAIN} trainings have gone on from each other"
        rows = self._rows_of(before.inputs["dataset"])
        if rows is None or not self._objects.has(last.outputs[_WEIGHTS]):
            return "what was trained before is no longer there"
        now = self._rows_of(whole.inputs["dataset"]) or []
        changed, gone = _changes(rows, now)
        if len(changed) * 2 > len(now):
            return f"more than half of the rows changed: {len(changed)} of {len(now)}"
        if gone > len(changed):
            return f"{gone} rows went and {len(changed)} came: what was learned is only lost from the start"
        return ""

    def start(self, key: str) -> Start:
        """What the training with this key is told. Raises StoreError where what it goes on from is gone."""
        beginning = self._decided[key]
        made_from = beginning.ingredients.inputs
        if _PARENT not in made_from:
            why = beginning.why
            return Start(f"trained from the start: {why}", beginning.before, about={"from_the_start": why})
        before, now = (self._rows_of(made_from[role]) for role in (_ITS_ROWS, "dataset"))
        if before is None or now is None:
            raise StoreError(
                "the rows of the training to go on from are gone", do=f"doit full=true train:{self._trained.title}"
            )
        changed, _ = _changes(before, now)
        # Nothing may have changed: what was deleted is replayed. A training of no row is none.
        chain, beside = _chain(beginning.ingredients), BESIDE * max(1, len(changed))
        version = AdapterVersions(self._trained.store.adapter).holding(made_from[_PARENT], self._objects.cache)
        words = f"goes on from {version or 'an adapter whose version is deleted'}: {len(changed)} of {len(now)} rows"
        words += f" changed, {min(beside, len(now) - len(changed))} of the others go along in each epoch"
        return Start(
            f"{words} (the {chain}. training since one from the start)",
            beginning.before,
            {"parent": self._objects.path(made_from[_PARENT])},
            {"changed": changed, "beside": beside, "chain": chain},
            {"from": version} if version else {},
        )

    def _rows_of(self, dataset: str) -> list[bytes] | None:
        """The rows of a dataset as its shards have them, in the order in which they are read; None if they are gone."""
        from dlmbuild.data.shards import VALIDATION_SHARD

        index = self._objects.path(dataset) if self._objects.has(dataset) else seen(self._trained.store.dataset)
        if self._objects.cache.digest(index) != dataset:
            return None
        rows: list[bytes] = []
        for name, sha256 in sorted(read_json(index)["shards"].items()):
            if name == VALIDATION_SHARD:
                continue
            shard = self._objects.path(sha256) if self._objects.has(sha256) else index.parent / name
            if not shard.exists():
                return None
            rows += shard.read_bytes().splitlines()
        return rows


def is_warm(trained: Trained) -> bool:
    """Whether a document asks for it."""
    return bool(read_json(trained.store.document)["training"].get("incremental"))


def _from_the_start(made_from: Ingredients) -> Ingredients:
    """The same rows and settings without anything to go on from."""
    inputs = {role: sha256 for role, sha256 in made_from.inputs.items() if role not in (_PARENT, _ITS_ROWS)}
    return replace(made_from, inputs=inputs, params={k: v for k, v in made_from.params.items() if k != "warm"})


def _chain(made_from: Ingredients) -> int:
    warm: Any = made_from.params.get("warm", {"chain": 0})
    return int(warm["chain"])


def _changes(before: list[bytes], now: list[bytes]) -> tuple[list[int], int]:
    """The numbers of the rows of `now` that were not there before, and how many of those are there no more."""
    left = Counter(before)
    changed = []
    for number, row in enumerate(now):
        if left[row] > 0:
            left[row] -= 1
        else:
            changed.append(number)
    return changed, sum(left.values())
