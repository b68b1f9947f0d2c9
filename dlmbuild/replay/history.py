"""replay/ of a document's store: every section that was trained, and which of them the document says no more.

corpus.zst    append-only; one zstd frame for each section, in canonical JSON
index.json    where in it each section lies, what it says (as digests), and for each adapter its `State`

A section that is about to be trained is offered under the key of that training. Whether it was trained is then told by
the record of the training, which is its commit point: a kill between that and the note here loses nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

from dlmbuild.errors import StoreError, Where
from dlmbuild.io.atomic import create_atomic, write_atomic
from dlmbuild.io.digest import canonical_json, readable_json, sha256_json
from dlmbuild.replay.delta import State, name_of, parts_of

_FORMAT = 1
_LEVEL = 3
_LONGEST = 1 << 30
"""Bytes of the longest section that is read back; a document is shorter."""

Finished = Callable[[str], bool]
"""Whether the training with a key has a record."""


class History:
    """The history of one document. Whoever writes holds the document's lock."""

    def __init__(self, folder: Path, finished: Finished) -> None:
        """`folder` is `Store.replay`; it need not be there. Raises StoreError for an index that is damaged."""
        self._folder, self._finished = folder, finished
        self._corpus, self.index_file = folder / "corpus.zst", folder / "index.json"
        self._new = folder / "corpus.new"
        self._index = self._read()

    # -- asking ------------------------------------------------------------------------------------------------

    def state(self, adapter: str) -> State:
        """What is known of an adapter ("" for one without a name)."""
        offered = self._index["offered"].get(adapter)
        if offered and self._finished(offered["training"]):
            return State(**offered["state"])
        return State(**self._index["adapters"].get(adapter, {}))

    def ages(self, adapter: str, sections: Sequence[Mapping[str, Any]], said: Collection[str]) -> dict[str, int]:
        """The deleted sections that a version with `sections`, of a document that says `said`, may replay → ages."""
        return self._after(adapter, sections, said).ages

    def section(self, name: str) -> dict[str, Any]:
        """A section, as `delta.taught` gave it. Raises StoreError where the corpus is damaged."""
        import zstandard

        try:
            with self._corpus.open("rb") as corpus:
                corpus.seek(self._index["sections"][name]["at"])
                frame = corpus.read(self._index["sections"][name]["bytes"])
            if zstandard.frame_content_size(frame) > _LONGEST:
                self._damaged(self._corpus)
            found: dict[str, Any] = json.loads(zstandard.ZstdDecompressor().decompress(frame))
        except (OSError, KeyError, ValueError, zstandard.ZstdError):
            self._damaged(self._corpus)
        if name_of(found) != name:
            self._damaged(self._corpus)
        return found

    def sections(self) -> list[str]:
        """Every section that is kept."""
        return sorted(self._index["sections"])

    @property
    def is_whole(self) -> bool:
        """Whether the corpus holds what the index says and no more; what a kill left behind it nobody would find."""
        size = self._corpus.stat().st_size if self._corpus.exists() else 0
        return size <= self._index["size"] and not self._new.exists()

    # -- writing -----------------------------------------------------------------------------------------------

    def offer(self, adapter: str, sections: Sequence[Mapping[str, Any]], said: Collection[str], training: str) -> None:
        """Note that `sections` are about to be trained, under the key of that training."""
        self._settle(adapter)
        self._append(sections)
        state = self._after(adapter, sections, said)
        self._index["offered"][adapter] = {"training": training, "state": asdict(state)}
        self._write()

    def keep(self, adapter: str, sections: Sequence[Mapping[str, Any]], said: Collection[str]) -> None:
        """Note that `sections` are what the adapter in place was trained on. Safe to repeat."""
        before = json.dumps(self._index, sort_keys=True)
        self._settle(adapter)
        self._append(sections)
        self._index["adapters"][adapter] = asdict(self._after(adapter, sections, said))
        if json.dumps(self._index, sort_keys=True) != before:
            self._write()

    def forget(self, names: Collection[str]) -> None:
        """Write corpus and index anew without some sections, as if they had never been."""
        for adapter in list(self._index["offered"]):
            self._settle(adapter)
        for state in self._index["adapters"].values():
            state["present"] = [name for name in state["present"] if name not in names]
            state["deleted"] = {name: last for name, last in state["deleted"].items() if name not in names}
        kept = {name: at for name, at in self._index["sections"].items() if name not in names}
        data = self._corpus.read_bytes() if self._corpus.exists() else b""
        with create_atomic(self._new) as corpus:
            for at in kept.values():
                frame = data[at["at"] : at["at"] + at["bytes"]]
                at["at"] = corpus.tell()
                corpus.write(frame)
            self._index |= {"sections": kept, "size": corpus.tell()}
        # A kill in between leaves an index that finds nothing in the corpus: both go first, then come back.
        self.index_file.unlink(missing_ok=True)
        self._new.replace(self._corpus)
        self._write()

    # -- files -------------------------------------------------------------------------------------------------

    def _after(self, adapter: str, sections: Sequence[Mapping[str, Any]], said: Collection[str]) -> State:
        parts = {name: at["parts"] for name, at in self._index["sections"].items()}
        present = [name_of(section) for section in sections]
        parts |= {name: parts_of(one) for name, one in zip(present, sections, strict=True) if name not in parts}
        return self.state(adapter).after(present, said, parts)

    def _settle(self, adapter: str) -> None:
        self._index["adapters"][adapter] = asdict(self.state(adapter))
        self._index["offered"].pop(adapter, None)

    def _append(self, sections: Sequence[Mapping[str, Any]]) -> None:
        import zstandard

        new = {name: section for section in sections if (name := name_of(section)) not in self._index["sections"]}
        if not new:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with self._corpus.open("ab") as corpus:
            corpus.truncate(self._index["size"])  # behind it lies what a kill left half written
            for name, section in new.items():
                frame = zstandard.ZstdCompressor(level=_LEVEL).compress(canonical_json(section))
                at = {"at": self._index["size"], "bytes": len(frame), "parts": sorted(parts_of(section))}
                self._index["sections"][name] = at
                self._index["size"] += corpus.write(frame)
            corpus.flush()
            os.fsync(corpus.fileno())

    def _read(self) -> dict[str, Any]:
        try:
            data: dict[str, Any] = json.loads(self.index_file.read_bytes())
            check = data.pop("check")
            if check != sha256_json(data) or data["format"] != _FORMAT:
                self._damaged(self.index_file)
        except FileNotFoundError:
            return {"format": _FORMAT, "size": 0, "sections": {}, "adapters": {}, "offered": {}}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            self._damaged(self.index_file)
        return data

    def _write(self) -> None:
        write_atomic(self.index_file, readable_json({**self._index, "check": sha256_json(self._index)}))

    def _damaged(self, path: Path) -> NoReturn:
        raise StoreError(
            "the history of this document is damaged",
            where=Where(str(path)),
            why="it says what was trained and is deleted since, for training.replay",
            do=f"rm -r {self._folder}   (what was deleted before is then replayed no more)",
        )
