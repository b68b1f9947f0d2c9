"""Where a step's finished files go in the layout, and whether they are still there as its record says.

Three shapes: files with fixed names, a folder described by an index file, and adapter versions behind a pointer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from dlmbuild.errors import StoreError
from dlmbuild.io.atomic import fsync_tree, staging_folder, sweep_staging, write_atomic
from dlmbuild.io.statcache import StatCache
from dlmbuild.store.objects import Objects

Digests = Mapping[str, str]
"""File name → SHA-256, as in a record's `outputs`."""


class Outputs(Protocol):
    """A place in the layout for the files of one step."""

    @property
    def targets(self) -> Mapping[str, Path]:
        """The paths that other steps may depend on, known before anything is built, by their names in a record."""
        ...

    def mismatch(self, outputs: Digests, cache: StatCache) -> str:
        """What is missing or is not what `outputs` says, in words; empty when all is well."""
        ...

    def files(self, outputs: Digests) -> Sequence[Path]:
        """Every file in the layout that `mismatch` looks at, while there is none."""
        ...

    def publish(self, outputs: Digests, objects: Objects) -> None:
        """Bring the layout to `outputs`, whose objects are all present. Safe to repeat after a kill."""
        ...


class Files(NamedTuple):
    """Files with names known beforehand: name → path."""

    paths: Mapping[str, Path]
    linked: bool = True
    """Whether a file may be a link to its object; one in a person's folder is theirs to edit."""

    @property
    def targets(self) -> Mapping[str, Path]:
        return self.paths

    def mismatch(self, outputs: Digests, cache: StatCache) -> str:
        if set(outputs) != set(self.paths):
            return "other files than the record names"
        return _first_mismatch({self.paths[name]: sha256 for name, sha256 in outputs.items()}, cache)

    def files(self, outputs: Digests) -> Sequence[Path]:
        return list(self.paths.values())

    def publish(self, outputs: Digests, objects: Objects) -> None:
        _place({self.paths[name]: sha256 for name, sha256 in outputs.items()}, objects, linked=self.linked)


class Folder(NamedTuple):
    """An index file, and the files that go with it in a folder beside it.

    The folder's name is `members`, or, if that is empty, what the index holds under "revision".
    """

    index_file: Path
    members: str = ""
    shared: bool = False
    """Whether a person may keep files among the members: then only those go that the index before named as `files`."""

    @property
    def targets(self) -> Mapping[str, Path]:
        return {self.index_file.name: self.index_file}

    def mismatch(self, outputs: Digests, cache: StatCache) -> str:
        problem = _first_mismatch({self.index_file: outputs.get(self.index_file.name, "")}, cache)
        return problem or _first_mismatch(self._members(outputs, self.folder(self.index_file)), cache)

    def files(self, outputs: Digests) -> Sequence[Path]:
        return [self.index_file, *self._members(outputs, self.folder(self.index_file))]

    def publish(self, outputs: Digests, objects: Objects) -> None:
        index_object = objects.path(outputs[self.index_file.name])
        folder = self.folder(index_object)
        members = self._members(outputs, folder)
        sweep_staging(folder)
        _place(members, objects)
        for path in self._others(folder):
            if path not in members and path.is_file():
                path.unlink()
        _place({self.index_file: outputs[self.index_file.name]}, objects)

    def _others(self, folder: Path) -> Sequence[Path]:
        if self.shared:
            return [folder / Path(name).name for name in made_before(self.index_file)]
        return list(folder.iterdir()) if self.members else []

    def folder(self, index: Path) -> Path:
        """Where the members are that go with an index, which may be a copy of it."""
        name = self.members or str(json.loads(index.read_bytes())["revision"])
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", name):
            raise StoreError(f"{name!r} cannot be the name of a folder", why=f"it comes from {index}")
        return self.index_file.parent / name

    def _members(self, outputs: Digests, folder: Path) -> dict[Path, str]:
        return {folder / name: sha256 for name, sha256 in outputs.items() if name != self.index_file.name}


def made_before(index_file: Path) -> Sequence[str]:
    """The names of the files that an index names; none for one that is not there or is damaged."""
    try:
        named = json.loads(index_file.read_bytes())["files"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return sorted(named) if isinstance(named, dict) else []


class AdapterVersions(NamedTuple):
    """Adapter versions v0001, v0002, …; `current.txt` names the one in use and `adapter.json` says what is in it.

    Committing takes two steps: a version folder appears whole, then the pointer is renamed over. Versions are kept; an
    adapter that an earlier version holds is pointed to again instead of being stored twice. A phase that another one
    follows has a pointer of its own among the same versions: `sft.txt` and `sft.json`.
    """

    root: Path
    phase: str = ""
    """"" for the last phase, whose versions are the ones in use."""

    @property
    def index_file(self) -> Path:
        """The file that says what is in the version pointed to."""
        return self.root / (f"{self.phase}.json" if self.phase else "adapter.json")

    @property
    def pointer(self) -> Path:
        return self.root / (f"{self.phase}.txt" if self.phase else "current.txt")

    @property
    def targets(self) -> Mapping[str, Path]:
        return {"adapter.json": self.index_file}

    def current(self) -> Path:
        """The version folder pointed to. Raises StoreError where there is none."""
        try:
            name = self.pointer.read_text("utf-8", "replace").strip()
        except OSError:
            name = ""
        if not re.fullmatch(r"versions/v[0-9]{4,}", name):
            raise StoreError(
                f"{self.pointer} names no adapter version",
                why="nothing has been trained yet, or the file was changed",
                do="doit train",
            )
        return self.root / name

    def mismatch(self, outputs: Digests, cache: StatCache) -> str:
        problem = _first_mismatch({self.index_file: outputs.get("adapter.json", "")}, cache)
        if problem:
            return problem
        try:
            return self.damaged(outputs, cache)
        except StoreError as error:
            return error.what

    def damaged(self, files: Digests, cache: StatCache) -> str:
        """Which of the `files` in the version pointed to is missing or another one, in words; empty for none."""
        return _first_mismatch(self._members(files, self.current()), cache)

    def files(self, outputs: Digests) -> Sequence[Path]:
        return [self.index_file, self.pointer, *self._members(outputs, self.current())]

    def publish(self, outputs: Digests, objects: Objects) -> None:
        version = self._find(outputs, objects.cache) or self._add(outputs, objects)
        _place({self.index_file: outputs["adapter.json"]}, objects)
        write_atomic(self.pointer, f"versions/{version.name}\n".encode())

    def holding(self, weights: str, cache: StatCache) -> str:
        """The name of a version with these weights; "" where there is none."""
        held = {version.name: {version / "adapter_model.safetensors": weights} for version in self.versions()}
        return next((name for name, files in held.items() if not _first_mismatch(files, cache)), "")

    def versions(self) -> list[Path]:
        """The folders of all versions, the oldest first."""
        # Whatever else a person keeps here, a copy of a version for example, is not ours.
        found = (v for v in (self.root / "versions").glob("v*") if re.fullmatch(r"v[0-9]{4,}", v.name))
        return sorted(found, key=lambda version: int(version.name[1:]))

    def _find(self, outputs: Digests, cache: StatCache) -> Path | None:
        return next((v for v in self.versions() if not _first_mismatch(self._members(outputs, v), cache)), None)

    def _add(self, outputs: Digests, objects: Objects) -> Path:
        last = max((int(v.name[1:]) for v in self.versions()), default=0)
        version = self.root / "versions" / f"v{last + 1:04d}"
        sweep_staging(version.parent)
        with staging_folder(self.root / "versions") as staging:
            whole = staging / version.name
            _place(self._members(outputs, whole), objects)
            fsync_tree(whole)
            whole.rename(version)
        return version

    def _members(self, outputs: Digests, folder: Path) -> dict[Path, str]:
        return {folder / name: sha256 for name, sha256 in outputs.items() if name != "adapter.json"}


def _first_mismatch(expected: Mapping[Path, str], cache: StatCache) -> str:
    for path, sha256 in expected.items():
        try:
            if cache.digest(path) != sha256:
                return f"{path} was changed after it was built"
        except OSError:
            return f"{path} is missing"
    return ""


def _place(files: Mapping[Path, str], objects: Objects, *, linked: bool = True) -> None:
    for path, sha256 in files.items():
        if not objects.lies_at(path, sha256, linked=linked):
            objects.place(sha256, path, linked=linked)
