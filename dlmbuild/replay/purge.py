"""Everything below a home that holds what a document once said and says no more: found, removed, and searched again.

Text lies in documents as data, in the history, in reports, records and packs; as tokens in datasets; as numbers in
what frozen layers gave for rows; and, beyond anybody's reading, in the weights of what was trained on it. Rows and
models are found by the records: what was made from a text, and from that in turn. Objects that no record tells anything
about go as well, and so does all that is only a shortcut.

What other documents say is theirs: their stores stay, with whatever their builds in place need.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlmbuild.doc.routing import ELSEWHERE, routed
from dlmbuild.errors import StoreError, Where
from dlmbuild.io.digest import sha256_json
from dlmbuild.io.json_file import read_json_object
from dlmbuild.io.statcache import StatCache
from dlmbuild.replay.history import History
from dlmbuild.replay.texts import Said, Wanted, is_file, phrase, said_in
from dlmbuild.store.built import all_built
from dlmbuild.store.gc import folders
from dlmbuild.store.layout import Home, Store
from dlmbuild.store.objects import Objects
from dlmbuild.store.outputs import AdapterVersions
from dlmbuild.store.records import Record, Records

_OF_BASES = ("base/", "gguf/", "quantize/", "retention/")
"""Rules whose results are made of no document."""
_MODELS = ("train/", "prefer/", "mix/", "merge/", "export/", "hub/", "runtime/")
"""Rules whose results hold no text, but what was learned from it."""


@dataclass
class Found:
    """What would go, and what cannot be taken back without its model."""

    said: list[Said] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    """Files and folders that hold it, or may."""
    sections: list[str] = field(default_factory=list)
    """Of the history."""
    stray: list[Path] = field(default_factory=list)
    """The history, where it holds more than it knows of: what a kill left of it."""
    versions: list[Path] = field(default_factory=list)
    """Adapter versions that were trained on some of it."""
    unknown: list[Path] = field(default_factory=list)
    """Adapter versions of which no record tells any more what they were trained on."""
    models: list[Path] = field(default_factory=list)
    """Further files of what was made from these versions, and the records of it."""


class Purge:
    """A search for what one document says no more. Whoever deletes holds every lock of the home."""

    def __init__(self, home: Home, store: Store, present: Mapping[str, Any], text: str, beside: Sequence[Path]) -> None:
        """`present` is what the document says now, as document.json would have it; `text` a part of what is meant, or
        "" for all that it says no more; `beside` are built files outside of the home that may hold it."""
        self._home, self._store, self._beside, self._text = home, store, beside, text
        self._cache = StatCache(home.stat_cache)
        self._records = {**dict(_records(store.imported)), **dict(_records(home.records))}
        self._documents = list(self._versions_of(present["dlm_id"]))
        here = set(said_in(present))
        self._parts = {part for one in here for part in one}
        once = {said for document in self._documents for said in said_in(document)}
        once |= {said for _, section in self._remembered() for said in said_in({"sections": [section]})}
        words = phrase(text, re.IGNORECASE)
        meant = [said for said in once - here if any(map(words.search, said)) or _names(text, said)]
        unmeant = (once - here).difference(meant)
        self.unsearched = sorted({said[0] for said in unmeant if is_file(said)})
        """Files of sources that went or changed, and whose names the text is no part of: their words are not known."""
        self._wanted = Wanted(meant, [text] if text else [], here)
        self._others = self._keys_of_others()
        self._kept = self._made_by(self._others | {key for key, one in self._records.items() if _is(one, _OF_BASES)})

    def telling(self, said: Said) -> str:
        """What tells best which text this is: where only the answer is gone, the question is that of another."""
        gone = (part for part in said if part not in self._parts)
        return said[0] if is_file(said) else next(gone, said[0])

    def find(self) -> Found:
        """Everything that holds it, and every model that was trained on it."""
        found = Found(sorted(self._wanted.said), stray=self._stray())
        held = list(self._searched()) if found.said or self._text else []
        holding = {path.name for path in held if path.is_relative_to(self._home.objects)}
        tainted = self._followed({*self._tainted(), *self._holding(holding)}, holding)
        models = {key for key in tainted if _is(self._records[key], _MODELS)} - self._holding(holding)
        models = {key for key in models if self._path(key) not in held}
        if found.said or held:
            found.files = sorted({*self._going(tainted - models), *held})
            found.sections = [name for name, section in self._remembered() if self._wanted.in_json(section)]
        self._add_models(found, models, tainted)
        return found

    def _going(self, keys: set[str]) -> Iterator[Path]:
        """Some records and what they made, as far as no other needs it; all that nobody knows; and shortcuts."""
        named = self._made_by(self._records.keys() - keys).union(self._kept, *self._imported())
        gone = {path.name for path in self._objects()} - named
        yield from (path for path in self._objects() if path.name in gone)
        yield from map(self._path, keys)
        yield from (path for path in self._in_store() if self._cache.digest(path) in gone)
        yield from (path for path in (self._store.root / "cache" / "unfinished", self._home.states) if path.is_dir())

    def _add_models(self, found: Found, models: set[str], tainted: set[str]) -> None:
        """Add the adapter versions, and all that was made from those which have learned it, or may have."""
        trainings = self._trainings()
        known = self._made_by(self._records)
        unknown = {
            key
            for key in set().union(*trainings.values())
            if not known.issuperset(self._records[key].ingredients.inputs.values())
        }
        doubtful = self._followed(unknown, set()) - tainted
        for version, keys in trainings.items():
            if keys & models:
                found.versions.append(version)
            elif not keys or keys & doubtful:
                found.unknown.append(version)
        others = self._records.keys() - models
        learned = self._made_by(models) - self._made_by(others)
        learned |= self._made_by(doubtful) - self._made_by(others - doubtful)
        found.models = [path for path in self._objects() if path.name in learned]
        found.models += [path for path in self._in_store() if self._cache.digest(path) in learned] if learned else []
        found.models += map(self._path, models | doubtful)

    def delete(self, found: Found, *, models: bool) -> None:
        """Remove what was found; with `models` what was trained on it, or may have been, as well."""
        going = [*([*found.versions, *found.unknown, *found.models] if models else []), *found.files]
        # After a kill the next search has to know what is meant: what tells it goes last.
        telling = {key for key, one in self._records.items() if _is(one, ("check/",))}
        documents = self._made_by(telling)
        last = {*map(self._path, telling), self._store.document}
        last |= {path for path in self._objects() if path.name in documents}
        for path in sorted(going, key=last.__contains__):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if found.sections or found.stray:
            self._history().forget(found.sections)
        for adapter in (self._store.adapter, *self._store.adapter.glob("*")):
            for versions in (AdapterVersions(adapter), AdapterVersions(adapter, "sft")):
                if versions.pointer.exists() and not versions.current().is_dir():
                    versions.pointer.unlink()
                    versions.index_file.unlink(missing_ok=True)

    def left(self) -> tuple[list[Path], int]:
        """What holds it still in spite of all, and how many files were looked into."""
        left = list(self._searched())
        if any(self._wanted.in_json(section) for _, section in self._remembered()) or self._stray():
            left.append(self._store.replay)
        return left, sum(path.is_file() for path in self._all_files())

    def said_elsewhere(self) -> list[str]:
        """The ids of other documents that say some of it."""
        stores = [folder for folder in (self._home.root / "store").glob("*") if folder != self._store.root]
        return sorted(folder.name for folder in stores if self._wanted.in_file(Store(folder).document))

    # -- by the records ----------------------------------------------------------------------------------------

    def _tainted(self) -> set[str]:
        """The records that say themselves that their results are made of it."""
        rows = set(self._rows())
        return {
            key
            for key, record in self._records.items()
            if not _is(record, _OF_BASES)
            and key not in self._others
            and (not rows.isdisjoint(_rows_of(record)) or self._wanted.in_file(self._path(key)))
        }

    def _holding(self, objects: set[str]) -> set[str]:
        """The records of some objects."""
        return {key for key, one in self._records.items() if objects.intersection(one.outputs.values())} - self._others

    def _followed(self, keys: set[str], objects: set[str]) -> set[str]:
        """Some records, and those of all that was made from their results, or from `objects`, and from that in turn."""
        while True:
            bad = objects | (self._made_by(keys) - self._made_by(self._records.keys() - keys) - self._kept)
            more = {key for key, one in self._records.items() if bad.intersection(one.ingredients.inputs.values())}
            if more - self._others <= keys:
                return keys
            keys = keys | (more - self._others)

    def _made_by(self, keys: Iterable[str]) -> set[str]:
        return {digest for key in keys for digest in self._records[key].outputs.values()}

    def _rows(self) -> Iterator[str]:
        """What names rows that were made of it, in the keys of datasets."""
        for document in self._documents:
            names = list(document["training"].get("adapters") or ())
            for first in names or [""]:  # which one is declared first the data does not tell
                order = [first, *(name for name in names if name != first)]
                for name in order:
                    own = routed(document["sections"], order, {name}) if name else document["sections"]
                    own = [section for section in own if section["type"] != ELSEWHERE]
                    if self._wanted.in_json(own):
                        yield sha256_json(own)
            files = sorted(
                (name, sha256, source.get("weights", {}).get(name, 1.0))
                for source in document.get("sources", ())
                for name, sha256 in source["files"].items()
            )
            if any(file[:2] in self._wanted.said for file in files):
                yield sha256_json(files)
        yield from (name for name, section in self._remembered() if self._wanted.in_json(section))

    def _trainings(self) -> dict[Path, set[str]]:
        """Every adapter version → the keys of the records of trainings that came to its weights."""
        made: dict[str, set[str]] = {}
        for key, record in self._records.items():
            made.setdefault(record.outputs.get("adapter_model.safetensors", ""), set()).add(key)
        versions = [path for adapter in self._store.trained() for path in AdapterVersions(adapter).versions()]
        weights = {version: version / "adapter_model.safetensors" for version in versions}
        return {at: made.get(self._cache.digest(path), set()) for at, path in weights.items() if path.exists()}

    def _keys_of_others(self) -> set[str]:
        """The records of what is in place of other documents."""
        others = [folder for folder in folders(self._home) if folder != self._store.root]
        return {key for folder in others for key in all_built(folder).values() if key in self._records}

    def _imported(self) -> Iterator[set[str]]:
        """What packs brought for other documents, which may not have been built from yet."""
        for folder in self._home.root.glob("store/*/imported"):
            if folder != self._store.imported:
                yield from (set(record.outputs.values()) for _, record in _records(folder))

    def _versions_of(self, dlm_id: str) -> Iterator[dict[str, Any]]:
        """The document as it was checked once: every version of which something is left."""
        checked = {one.outputs.get("document.json", "") for one in self._records.values()} - {""}
        objects = Objects(self._home.objects, self._cache)
        for path in [*map(objects.path, sorted(checked)), self._store.document]:
            if path.exists() and (document := read_json_object(path, StoreError)).get("dlm_id") == dlm_id:
                if not {"sections", "training"} <= document.keys():
                    why = "it lacks what the document says"
                    raise StoreError(
                        "the file is damaged", where=Where(str(path)), why=why, do="write it anew with: doit check"
                    )
                yield document

    # -- by looking --------------------------------------------------------------------------------------------

    def _searched(self) -> Iterator[Path]:
        """The files that hold it; the history is asked for its sections."""
        files = (path for path in self._all_files() if path.parent != self._store.replay)
        return (path for path in files if self._wanted.in_file(path))

    def _all_files(self) -> Iterator[Path]:
        """Every file of the home, and those beside it, but what belongs to bases and to other documents."""
        others = [self._home.root / name for name in ("bases", "converters")]
        others += [folder for folder in (self._home.root / "store").glob("*") if folder != self._store.root]
        spared = {*self._kept, *(f"{key}.json" for key in self._others)}
        for path in [*sorted(self._home.root.rglob("*")), *self._beside]:
            if path.is_file() and path.name not in spared and not any(map(path.is_relative_to, others)):
                yield path

    def _objects(self) -> list[Path]:
        return sorted(self._home.objects.glob("*/*"))

    def _in_store(self) -> list[Path]:
        """What lies in place, without the adapter versions, which go as a whole."""
        versions = list(self._trainings())
        files = [path for path in sorted(self._store.root.rglob("*")) if path.is_file()]
        return [path for path in files if not any(map(path.is_relative_to, versions))]

    def _path(self, key: str) -> Path:
        return Records(self._home.records, self._store.imported).path(key)

    def _history(self) -> History:
        return History(self._store.replay, self._records.__contains__)

    def _stray(self) -> list[Path]:
        return [] if self._history().is_whole else [self._store.replay]

    def _remembered(self) -> Iterator[tuple[str, dict[str, Any]]]:
        history = self._history()
        yield from ((name, history.section(name)) for name in history.sections())


def _records(root: Path) -> Iterator[tuple[str, Record]]:
    records = Records(root)
    for path in sorted(root.glob("*/*.json")):
        if record := records.load(path.stem):
            yield path.stem, record


def _is(record: Record, rules: tuple[str, ...]) -> bool:
    return record.ingredients.rule.startswith(rules)


def _names(text: str, said: Said) -> bool:
    """Whether a text is the path of a file of the sources, from wherever."""
    return is_file(said) and text.endswith(f"/{said[0]}")


def _rows_of(record: Record) -> set[str]:
    """What a dataset's record says that its rows are made of."""
    params: Mapping[str, Any] = record.ingredients.params
    if not _is(record, ("dataset/",)):
        return set()
    return {params["sections"], params.get("sources", ""), *params.get("replay", {}).get("versions ago", ())}
