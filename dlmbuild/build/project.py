"""A project folder as the graph sees it: its documents, each with the little of its header that shapes the graph.

Parsing costs imports that an up-to-date build must not pay, so a header is remembered under the digest of the document.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from doit.exceptions import InvalidDodoFile

from dlmbuild import base_models
from dlmbuild.base_models.reference import Reference, parse_reference, present_reference, require_present
from dlmbuild.build import uptodate
from dlmbuild.build.declaration import deciding
from dlmbuild.build.dodo import running_dodo
from dlmbuild.build.step import Archive
from dlmbuild.doc.names import QUANTISATIONS, USUAL
from dlmbuild.errors import BaseModelError, DlmError, DocumentError, InvalidDocument, UsageError, Where
from dlmbuild.io.atomic import write_atomic
from dlmbuild.lock import Mode
from dlmbuild.store.layout import BaseFolder, Home, Store

_HEADER_VERSION = "13"
_REGISTRY = Path(base_models.__file__).with_name("registry.toml")


class Document(NamedTuple):
    """A document that can be built; from `dlm_id` on what doc/header.py says."""

    path: Path
    """Relative to the project folder."""
    base: Reference
    store: Store
    retains: bool
    """Whether its training holds the model to what the base says by itself."""
    dlm_id: str
    default_quant: str
    sources: Mapping[str, Any]
    prefers: bool
    evaluates: bool
    whole: Sequence[str]
    adapters: Mapping[str, bool]
    mixes: Mapping[str, Any]
    gated: bool
    imatrix: bool

    @property
    def name(self) -> str:
        return self.path.stem


_OF_THE_HEADER = Document._fields[Document._fields.index("dlm_id") :]


class BrokenDocument(NamedTuple):
    """A document with mistakes: its tasks exist, and fail with them."""

    path: Path
    error: DlmError
    otherwise: Document | None = None
    """The document, if nothing is wrong but that its base is not there: what was built from it can still be used."""

    @property
    def name(self) -> str:
        return self.path.stem


class Project:
    """The documents that match `patterns` below `folder`."""

    noticed: ClassVar[dict[Path, object]] = {}
    """Files and folders that decide which documents there are, of every project of this process → how they were then.

    See `uptodate.appearance`.
    """

    def __init__(self, folder: Path, patterns: tuple[str, ...], lock_mode: Mode = "", *, full: bool = False) -> None:
        """With `full`, whatever is trained is trained from the start."""
        self.folder = folder
        self.patterns = patterns
        self.lock_mode = lock_mode
        self.full = full
        self.lock_path = folder / "dlm.lock"
        self.archive = Archive(Home.default())

    @cached_property
    def _all(self) -> list[Document | BrokenDocument]:
        decided = map(Path, deciding(str(self.folder)))
        for path in [*self._searched(), *decided, self.lock_path]:
            self.noticed.setdefault(path, uptodate.appearance(str(path)))
        found = sorted({path for pattern in self.patterns for path in self._glob(pattern) if not path.is_dir()})
        for path in found:
            self.noticed.setdefault(path, uptodate.appearance(str(path)))
        documents = [self._load(path.relative_to(self.folder)) for path in found]
        _refuse_clashes(documents)
        return documents

    @property
    def documents(self) -> list[Document]:
        return [document for document in self._all if isinstance(document, Document)]

    @property
    def broken(self) -> list[BrokenDocument]:
        return [document for document in self._all if isinstance(document, BrokenDocument)]

    def nothing(self) -> UsageError:
        """What there is to say of a project without any document."""
        patterns = ", ".join(json.dumps(pattern, ensure_ascii=False) for pattern in self.patterns)
        why, do = "this is what dodo.py gives to project(…)", "write one there, or begin a project: dlm init mybook"
        if beside := sorted(path.name for path in self.folder.glob("*.dlm") if not path.is_dir()):
            why, do = f"{why}, and {beside[0]} is not named so", 'write project("*.dlm") in dodo.py'
        return UsageError(f"no document matches {patterns} in {self.folder}", why=why, do=do)

    def bases(self) -> Iterator[tuple[Reference, BaseFolder]]:
        """Each base once, with its folder."""
        unique = {document.base.key: document.base for document in self.documents}
        for key in sorted(unique):
            yield unique[key], self.base_folder(unique[key])

    @cached_property
    def quantisations(self) -> tuple[str, ...]:
        """Those that there are tasks for: the usual ones, a document's own, and what the command line names.

        Tasks for all of them would be most of the graph, for what hardly anyone asks.
        """
        asked = {part for word in sys.argv[1:] for part in word.split(":")}
        asked |= {document.default_quant for document in self.documents}
        return tuple(quant for quant in QUANTISATIONS if quant in USUAL or quant in asked)

    def base_folder(self, reference: Reference) -> BaseFolder:
        return self.archive.home.base(reference.key)

    def _glob(self, pattern: str) -> list[Path]:
        try:
            return list(self.folder.glob(pattern))
        except (ValueError, NotImplementedError):
            raise InvalidDodoFile(
                f"project({pattern!r}) in dodo.py: this is no pattern for files below {self.folder}\n"
                f'  → write one such as "*.dlm"'
            ) from None

    def _searched(self) -> Iterator[Path]:
        """The folders in which a new document would be found."""
        yield self.folder
        for pattern in self.patterns:
            parts = pattern.split("/")[:-1]
            for depth in range(1, len(parts) + 1):
                with contextlib.suppress(ValueError, NotImplementedError):  # no pattern: `_glob` says so
                    yield from (path for path in self.folder.glob("/".join(parts[:depth])) if path.is_dir())

    def _load(self, path: Path) -> Document | BrokenDocument:
        if (whole := self.folder / path).exists() and not whole.is_file():  # reading a pipe would wait for its writer
            return BrokenDocument(path, DocumentError("not a plain file", where=Where(str(path)), do="delete it"))
        try:
            header = self._header(path)
            remembered = header.get("reference")
            if remembered:
                reference = Reference.from_data(remembered)
            else:
                reference = parse_reference(header["base_model"], (self.folder / path).parent)
        except DlmError as error:
            return BrokenDocument(path, self._all_mistakes(path, error))
        except OSError as error:
            from dlmbuild.io.text import unreadable

            return BrokenDocument(path, unreadable(self.folder / path, error, shown=path))
        store = self.archive.home.store(header["dlm_id"])
        held = header["retention"]
        retains = bool(reference.recipe.retention if held is None else held)
        document = Document(path, reference, store, retains, *(header[name] for name in _OF_THE_HEADER))
        if reference.landmark:
            self.noticed.setdefault(reference.landmark, uptodate.appearance(str(reference.landmark)))
        try:
            require_present(reference)
        except BaseModelError as error:
            return BrokenDocument(path, self._all_mistakes(path, error), document)
        return document

    def _all_mistakes(self, path: Path, first: DlmError) -> DlmError:
        """A header is read without the body; once something is wrong, everything that is wrong is told."""
        from dlmbuild.doc.document import parse_bytes

        whole = self.folder / path
        try:
            parse_bytes(whole.read_bytes(), str(path), partial(present_reference, folder=whole.parent))
        except InvalidDocument as error:
            (one, *more) = error.errors
            return one if isinstance(one, BaseModelError) and not more else error
        return first  # the file was mended between the two readings

    def _header(self, path: Path) -> dict[str, Any]:
        sha256 = self.archive.cache.digest(self.folder / path)
        # The name of a document is checked as well, so it is part of what is remembered.
        name = f"{sha256}-{path.stem}-{_HEADER_VERSION}-{_REGISTRY.stat().st_mtime_ns}.json"
        memory = self.archive.home.root / "headers" / name
        with contextlib.suppress(OSError, ValueError):
            remembered = json.loads(memory.read_bytes())
            if isinstance(remembered, dict) and remembered.keys() >= {*_OF_THE_HEADER, "base_model", "retention"}:
                return remembered
        from dlmbuild.doc.header import read_header

        found = read_header((self.folder / path).read_bytes(), str(path))
        header = asdict(found)
        reference = parse_reference(found.base_model, (self.folder / path).parent)
        if reference.path is None:  # what lies on this disk is named by a path, which is not the document's
            header["reference"] = reference.as_data()
        if self.archive.home.root.is_dir():  # who only looks makes no home
            with contextlib.suppress(OSError):  # only memory: where nothing can be written, the steps say so
                write_atomic(memory, json.dumps(header).encode())  # the order of its adapters decides
        return header


def find_document(named: str, folder: Path) -> tuple[Project, Document]:
    """A document by its name in the project of `folder`, or by its path. Raises its own mistakes, or UsageError."""
    import glob

    path = Path(named)
    if path.suffix == ".dlm" and path.is_file():
        project = Project(path.absolute().parent, (glob.escape(path.name),))
    else:
        project = project_of(folder)
    name = path.stem if path.suffix == ".dlm" else named  # a name may hold dots itself
    for document in project.documents:
        if document.name == name:
            return project, document
    for broken in project.broken:
        if broken.name == name and broken.otherwise:
            return project, broken.otherwise
        if broken.name == name:
            raise broken.error
    from dlmbuild.doc.mistakes import nearest

    names = [*(document.name for document in project.documents), *(broken.name for broken in project.broken)]
    why = f"its documents are: {', '.join(sorted(names))}"
    do = f"write {nearest(name, names) or 'one of these names'}"
    raise UsageError(f"there is no document {named!r} in this project", why=why, do=do)


def project_of(folder: Path) -> Project:
    """The project that the dodo.py in `folder` declares. Raises UsageError where there is none, or for its mistakes."""
    import runpy

    dodo = folder / "dodo.py"
    if (beside := str(folder.absolute())) not in sys.path:
        sys.path.insert(0, beside)  # as doit does: a dodo file may import what lies beside it
    uptodate.loaded_by_hand = True
    try:
        with running_dodo(dodo):
            project = runpy.run_path(str(dodo)).get("DLM_PROJECT")
    finally:
        uptodate.loaded_by_hand = False
    if not isinstance(project, Project):
        raise UsageError(
            "dodo.py calls no dlmbuild.rules.project", do='globals().update(project("*.dlm")) in dodo.py declares one'
        )
    try:
        if not project.documents and not project.broken:  # two of one name are a mistake of the project, too
            raise project.nothing()
    except InvalidDodoFile as error:
        raise UsageError(str(error)) from None
    return project


def _refuse_clashes(documents: list[Document | BrokenDocument]) -> None:
    by_name: dict[str, Path] = {}
    by_id: dict[str, Path] = {}
    told = []
    for found in documents:
        document = found.otherwise if isinstance(found, BrokenDocument) else found
        if (other := by_name.setdefault(found.name, found.path)) != found.path:
            from dlmbuild.doc.clashes import same_name

            told.append(same_name(other, found.path))
        if document and (other := by_id.setdefault(document.dlm_id, found.path)) != found.path:
            from dlmbuild.doc.clashes import same_id

            told.append(same_id(other, found.path, document.dlm_id))
    if told:
        raise InvalidDodoFile("\n".join(map(str, told)))
