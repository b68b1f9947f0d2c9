"""Where everything lies below $DLM_HOME. Nothing else in the program joins these paths.

store/<dlm_id>/       one document: see `Store`
bases/<key>/          one pretrained model, shared by every document on it: see `BaseFolder`
converters/<version>/ llama.cpp's conversion scripts, where a base needs them
objects/<aa>/<sha256> every finished file, immutable, named by its content
records/<aa>/<key>    what each finished step was made from
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from dlmbuild.doc.names import QUANTISATIONS
from dlmbuild.errors import StoreError, UsageError
from dlmbuild.io.ulid import is_ulid


class Home(NamedTuple):
    """The folder that holds everything built."""

    root: Path

    @classmethod
    def default(cls) -> Home:
        """$DLM_HOME, or ~/.dlm. Raises UsageError where that is no path."""
        named = os.environ.get("DLM_HOME")
        try:
            return cls(Path(named).expanduser().absolute() if named else Path.home() / ".dlm")
        except RuntimeError:  # ~somebody, who is not known here
            raise UsageError(
                f"DLM_HOME is {named}, and there is no such user" if named else "there is no home folder for ~/.dlm",
                do="set DLM_HOME to a folder",
            ) from None

    @property
    def objects(self) -> Path:
        return self.root / "objects"

    @property
    def records(self) -> Path:
        return self.root / "records"

    @property
    def selftest(self) -> Path:
        """What `dlm doctor --selftest` measured."""
        return self.root / "selftest.json"

    @property
    def stat_cache(self) -> Path:
        return self.root / "stat.sqlite"

    @property
    def sources(self) -> Path:
        """What is remembered of documents' sources: only a shortcut."""
        return self.root / "sources"

    @property
    def states(self) -> Path:
        """What frozen layers give for rows (train/kept.py): only a shortcut."""
        return self.root / "states"

    @property
    def notes(self) -> Path:
        """What builds with nothing to do looked at (build/uptodate.py): only a shortcut."""
        return self.root / "uptodate"

    def converter(self, version: str) -> Path:
        """The folder of llama.cpp's scripts of one version."""
        return self.root / "converters" / version

    def store(self, dlm_id: str) -> Store:
        """The store of one document. Raises StoreError for an id that is not a ULID: ids become paths."""
        if not is_ulid(dlm_id):
            raise StoreError(f"{dlm_id!r} is not a document id", why="an id is a ULID of 26 characters")
        return Store(self.root / "store" / dlm_id)

    def base(self, key: str) -> BaseFolder:
        """The folder of one base; `key` comes from `base_models.reference`, which makes it a safe file name."""
        return BaseFolder(self.root / "bases" / key)

    def bases(self) -> list[BaseFolder]:
        """The folders of all bases that lie here."""
        return [BaseFolder(facts.parent) for facts in sorted(self.root.glob("bases/*/base.json"))]


class Store(NamedTuple):
    """The files of one document, or, of those that are there for each of its named adapters and mixes, those of one."""

    root: Path
    of: str = ""
    """The name of the adapter or mix; "" for the only adapter of a document that names none."""

    def named(self, name: str) -> Store:
        """The same store, as the adapter or mix of this name sees it."""
        return self._replace(of=name)

    @property
    def lock_file(self) -> Path:
        return self.root / ".lock"

    @property
    def dlm_lock(self) -> Path:
        return self.root / "dlm.lock"

    @property
    def manifest(self) -> Path:
        return self.root / "manifest.json"

    @property
    def document(self) -> Path:
        return self.root / "document.json"

    @property
    def plan(self) -> Path:
        return self.root / "plan.json"

    @property
    def dataset(self) -> Path:
        """What says which shards of rows there are, in the folder of the same name beside it."""
        return (self.root / "dataset" / self.of if self.of else self.root) / "dataset.json"

    @property
    def adapter(self) -> Path:
        return self.root / "adapter" / self.of

    @property
    def gate(self) -> Path:
        """What chooses between the named adapters (train/gate.py); no adapter can have this name."""
        return self.root / "adapter" / "_gate"

    @property
    def evaluation(self) -> Path:
        return self.root / "eval" / self.of

    @property
    def imported(self) -> Path:
        """Records that came out of a pack: they count for this document alone."""
        return self.root / "imported"

    @property
    def replay(self) -> Path:
        """What was trained in earlier versions of the document (replay/history.py)."""
        return self.root / "replay"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def metrics(self) -> Path:
        """The logs of the trainings as a database: see store/runs.py."""
        return self.root / "metrics.sqlite"

    @property
    def cache(self) -> Path:
        return self.root / "cache" / self.of

    @property
    def exports(self) -> Path:
        return self.root / "exports" / self.of

    def exported(self) -> list[str]:
        """The exports of all adapters, as their folders are named: `Q4_K_M`, `tone/Q4_K_M`."""
        folders = [path for path in (self.root / "exports").glob("*") if path.is_dir()]
        named = [path for folder in folders if folder.name not in QUANTISATIONS for path in folder.glob("*")]
        whole = [path.name for path in folders if path.name in QUANTISATIONS]
        return sorted([*whole, *(f"{path.parent.name}/{path.name}" for path in named if path.name in QUANTISATIONS)])

    def trained(self) -> list[Path]:
        """The folders of all adapters that have versions, that without a name first."""
        return [path.parent for path in sorted((self.root / "adapter").glob("versions"))] + [
            path.parent for path in sorted((self.root / "adapter").glob("*/versions"))
        ]

    def export(self, quant: str) -> Path:
        return self.exports / quant

    @property
    def runtime(self) -> Path:
        """A folder for each runtime that wants an adapter in a layout of its own."""
        return self.root / "runtime" / self.of

    @property
    def hub(self) -> Path:
        """A folder for each quantisation, ready to be uploaded to a model hub, and beside it what is in it."""
        return self.root / "hub" / self.of


class BaseFolder(NamedTuple):
    """The files of one base: `base.json`, a folder of checkpoint files per revision, and GGUFs made of it."""

    root: Path

    @property
    def lock_file(self) -> Path:
        return self.root / ".lock"

    @property
    def logs(self) -> Path:
        return self.root

    @property
    def facts(self) -> Path:
        return self.root / "base.json"

    @property
    def retention(self) -> Path:
        """What the base says by itself (train/retention.py)."""
        return self.root / "retention.safetensors"

    def gguf(self, quant: str) -> Path:
        return self.root / f"base.{quant}.gguf"
