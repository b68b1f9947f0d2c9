"""What may go to make room, by one stated policy.

Stays: whatever lies in place now (built.json of each store and base), the newest versions of each adapter, the logs of
its trainings, the document's history (of which replay/purge.py takes), and the records and objects that these need.
Goes: older versions, exports' parts whose export was removed (`doit clean`), records and objects that nothing names any
more, what is remembered of the sources of documents that are gone, notes of builds and states of rows (train/kept.py)
that nobody used for long, and what killed builds left lying.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dlmbuild.doc.source_memory import owner_of
from dlmbuild.io.atomic import STAGING_SUFFIX
from dlmbuild.store.built import all_built
from dlmbuild.store.layout import Home, Store
from dlmbuild.store.objects import Objects
from dlmbuild.store.outputs import AdapterVersions
from dlmbuild.store.records import Records

_DAYS_OF_NOTES = 30
"""How long the note of a build that had nothing to do is kept."""

_DAYS_OF_WORK = 1
"""How long a folder that somebody works in without a lock is left alone."""

_DAYS_OF_STATES = 90
"""How long the states of a row are kept after a training used them, as `training.cache` has it by default."""

_VARIANT = re.compile(r"(export|merge|smoke|quantize):(.+)")
_ASIDE = re.compile(r"(hub|runtime):(.+)")
"""Made of an export, into a folder of the store: gone when that folder is."""


@dataclass(frozen=True, slots=True)
class Garbage:
    """Something that may go."""

    path: Path
    why: str
    bytes: int


def garbage(home: Home, objects: Objects, kept_versions: int) -> Iterator[Garbage]:
    """Everything that may go. The caller holds every lock of the home if it is going to delete it.

    Of each adapter `kept_versions` stay, the one in use among them.
    """
    started = time.time()
    records = Records(home.records)
    live: set[str] = set()
    weights: set[str] = set()
    named: set[str] = set()
    exported = {name.rpartition("/")[2] for folder in folders(home) for name in Store(folder).exported()}
    for folder in folders(home):
        store = Store(folder) if folder.parent.name == "store" else None
        wanted = set(store.exported()) if store else exported
        for slot, key in all_built(folder).items():
            variant, aside = _VARIANT.fullmatch(slot), _ASIDE.fullmatch(slot)
            if aside and not (folder / aside[1] / aside[2].replace(":", "/")).is_dir():
                continue
            if variant is None or variant[2].replace(":", "/") in wanted:
                live.add(key)
            elif store:
                of, _, quant = variant[2].rpartition(":")
                leftover = {"merge": f"model.{quant}.gguf", "smoke": f"smoke.{quant}.json"}
                yield from _file(store.named(of).cache / leftover.get(variant[1], "-"), "its export was removed")
            else:
                yield from _file(folder / f"base.{variant[2]}.gguf", "no export uses it")
        if store:
            for adapter in store.trained():
                kept, old = _versions(adapter, kept_versions)
                held = [path / "adapter_model.safetensors" for path in kept]
                weights |= {objects.cache.digest(path) for path in held if path.is_file()}
                for version in old:
                    yield Garbage(version, f"older than the newest {kept_versions} versions", _size(version))
            for imported in Records(store.imported).every():  # it may not have been built from yet
                named.update(imported.outputs.values())
    dead = []
    for path in sorted(home.records.glob("*/*.json")):
        record = records.load(path.stem)
        if record and (path.stem in live or record.outputs.get("adapter_model.safetensors") in weights):
            named.update(record.outputs.values())
        else:
            dead.append(path)
    for path in dead:
        yield from _file(path, "nothing that stays was made by it")
    for path in sorted(home.objects.glob("*/*")):
        if path.name not in named and path.stat().st_ctime < started:
            yield from _file(path, "no record that stays names it")
    for path in sorted(home.sources.glob("*.jsonl")):
        if not Path(owner_of(path) or "?").is_file():
            yield from _file(path, "the document whose sources it remembers is gone")
    for paths, days in ((home.notes.glob("*"), _DAYS_OF_NOTES), (home.states.glob("*/*"), _DAYS_OF_STATES)):
        for path in sorted(paths):
            if started - path.stat().st_mtime > days * 86_400:
                yield from _file(path, f"only a shortcut, and not used for {days} days")
    locked = folders(home)
    for path in home.root.rglob(f".*{STAGING_SUFFIX}"):
        # Where no lock is held somebody may be at work: whoever fetches a converter. An unpacking holds the home's.
        at_work = path.is_dir() and path.parent != home.root and started - path.stat().st_mtime < 86_400 * _DAYS_OF_WORK
        if not at_work or any(map(path.is_relative_to, locked)):
            yield Garbage(path, "left by a build that was killed", _size(path))


def lockable(home: Home) -> list[Path]:
    """Every folder of a home that has a lock: the home itself, which an unpacking holds, each store and each base."""
    return [home.root, *folders(home)]


def folders(home: Home) -> list[Path]:
    """Every store and base of a home."""
    return sorted(path for kind in ("store", "bases") for path in (home.root / kind).glob("*") if path.is_dir())


def _versions(adapter: Path, kept: int) -> tuple[list[Path], list[Path]]:
    found = AdapterVersions(adapter).versions()
    if not found:
        return [], []
    used = {AdapterVersions(adapter).current()}
    if AdapterVersions(adapter, "sft").pointer.exists():
        used.add(AdapterVersions(adapter, "sft").current())
    newest = [path for path in found if path not in used][-(kept - 1) :] if kept > 1 else []
    stays = {*used, *newest}
    return [path for path in found if path in stays], [path for path in found if path not in stays]


def _file(path: Path, why: str) -> Iterator[Garbage]:
    if path.is_file():
        yield Garbage(path, why, path.stat().st_size)


def _size(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(part.stat().st_size for part in path.rglob("*") if part.is_file())
