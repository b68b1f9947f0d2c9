"""`doit clean`: the files of exports go, whatever else lies in their folders stays and is named."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from doit.action import PythonAction

from dlmbuild.doc.names import QUANTISATIONS
from dlmbuild.io.atomic import STAGING_SUFFIX
from dlmbuild.store.outputs import Folder, made_before


class Exported(NamedTuple):
    """The folder of one export."""

    folder: Path
    names: Sequence[str]
    """The files that a build puts into it."""

    def made(self) -> Iterator[Path]:
        """What a build has put there: this one's files, and those that the manifest of an earlier one names."""
        listed: object = []
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
            listed = json.loads((self.folder / "export_manifest.json").read_bytes())["files"]
        names = {*self.names, *(listed if isinstance(listed, dict) else ())}
        for path in _within(self.folder):
            left_over = path.name.startswith(".") and path.name.endswith(STAGING_SUFFIX)
            if (path.name in names or left_over) and (path.is_symlink() or not path.is_dir()):
                yield path


class CleanFolders(PythonAction):  # type: ignore[misc]
    """An action for the `clean` of a task whose files lie in folders that an index each describes."""

    def __init__(self, outputs: Sequence[Folder]) -> None:
        self._outputs = outputs
        super().__init__(self._clean)

    def __str__(self) -> str:
        if len(self._outputs) == 1:
            return f"remove what is in {self._outputs[0].index_file.with_suffix('')}"
        return f"remove what is in those of {len(self._outputs)} folders that are there"

    def _clean(self, dryrun: bool) -> None:
        for outputs in self._outputs:
            index = outputs.index_file
            folder = index.parent / outputs.members
            for path in (*(folder / Path(name).name for name in made_before(index)), index):
                if path.is_file():
                    print("would remove" if dryrun else "removing", path)
                    if not dryrun:
                        _remove(path)
            for left in (folder, folder.parent, folder.parent.parent) if not dryrun else ():
                with contextlib.suppress(OSError):  # not there, or not empty
                    left.rmdir()


class Clean(PythonAction):  # type: ignore[misc]
    """An action for a task's `clean`, which goes over `exports` once.

    `said` is shared by the actions of a run: nothing is told twice.
    """

    def __init__(self, exports: Iterable[Exported], said: set[Path]) -> None:
        self._exports, self._said = exports, said
        super().__init__(self._clean)

    def __str__(self) -> str:
        return "remove what was exported"

    def _clean(self, dryrun: bool) -> None:
        for export in self._exports:
            made = list(export.made())
            for path in made:
                self._say(path, "would remove" if dryrun else "removing")
                if not dryrun:
                    _remove(path)
            beside = [path for path in _within(export.folder.parent) if path.name not in QUANTISATIONS]
            for path in (*(path for path in _within(export.folder) if path not in made), *beside):
                self._say(path, "keeping, because no build made it:")
            if not dryrun:
                for folder in (export.folder, *export.folder.parents):
                    with contextlib.suppress(OSError):  # not there, or not empty
                        folder.rmdir()
                    if folder.name == "exports":
                        break

    def _say(self, path: Path, what: str) -> None:
        if path not in self._said:
            self._said.add(path)
            print(what, path)


def _within(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise SystemExit(f"{folder} cannot be looked into: {error.strerror}") from None


def _remove(path: Path) -> None:
    try:
        path.unlink()
    except OSError as error:
        raise SystemExit(f"{path} cannot be removed: {error.strerror}") from None
