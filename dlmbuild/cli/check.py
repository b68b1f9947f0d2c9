"""Say whether documents are well written: every mistake at once, as file:line:col. Trains nothing, needs no torch."""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dlmbuild.errors import DlmError, DocumentError, InvalidDocument, UsageError, Where

if TYPE_CHECKING:
    from dlmbuild.doc.document import Reading
    from dlmbuild.doc.sources import Found


EVERY_DOCUMENT = "every .dlm below this folder, but not in hidden folders other than .dlm"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("documents", nargs="*", type=Path, help=f"files to check (default: {EVERY_DOCUMENT})")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json is for editors and CI")
    parser.add_argument(
        "--compat", action="store_true", help="also say what the public parser of the format reads in another way"
    )


def run(arguments: argparse.Namespace) -> int:
    gc.set_threshold(100_000)  # half of what is made here are classes, which stay
    documents = find_documents(arguments.documents)
    data = []
    wrong = 0
    earlier = _Earlier({}, {})
    for path in documents:
        found = _check(path, arguments.compat, earlier)
        wrong += bool(found.errors)
        if arguments.format == "json":
            data.append(found.as_data())
        else:
            _print(found)
    if arguments.format == "json":
        from dlmbuild.cli.words import as_json

        print(as_json({"documents": data}))
    else:
        good = len(documents) - wrong
        print(
            f"{good} of {len(documents)} documents are well written" if wrong else f"{good} checked, all well written"
        )
    return 1 if wrong else 0


def find_documents(named: Sequence[Path]) -> Sequence[Path]:
    """The documents of a command line, by default all below this folder. Raises UsageError where there is none."""
    documents = list({path.absolute(): path for path in reversed(named)}.values())[::-1]
    documents = documents or sorted(filter(_is_wanted, Path().rglob("*.dlm")))
    if not documents:
        raise UsageError("there is no .dlm document below this folder", do="dlm init mybook, or name a file")
    return documents


def _is_wanted(path: Path) -> bool:
    if os.path.isdir(path):  # noqa: PTH112 - unlike Path.is_dir, never an error itself
        return False
    return not any(part.startswith(".") and part != ".dlm" for part in path.parts[:-1])


class _Checked(NamedTuple):
    """What there is to say of a document."""

    path: Path
    reading: Reading
    errors: Sequence[DlmError]
    sources: Sequence[Found]
    elsewhere: Sequence[DlmError]
    """What the public parser reads in another way."""

    def as_data(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "errors": [_error_as_data(error, self.path) for error in self.errors],
            "elsewhere": [_error_as_data(note, self.path) for note in self.elsewhere],
            "sections": self.reading.sections_as_data(self.path.parent),
            "sources": [source.as_data() for source in self.sources],
        }


class _Earlier(NamedTuple):
    """The documents that were checked before."""

    names: dict[str, list[Path]]
    ids: dict[str, list[Path]]

    def clashes(self, path: Path, reading: Reading) -> Iterator[DlmError]:
        """What keeps a document from being built beside those before it; from now on it is one of them."""
        values = reading.head.values if reading.head else None
        keys = [(self.names, path.stem), *([(self.ids, values.dlm_id)] if values else [])]
        for known, key in keys:
            others = known.setdefault(key, [])
            if others:
                from dlmbuild.build.dodo import built_together
                from dlmbuild.doc.clashes import same_id, same_name

                for first in [other for other in others if built_together(other, path)][:1]:
                    yield same_name(first, path) if known is self.names else same_id(first, path, key, reading.head)
            others.append(path)


def _check(path: Path, compat: bool, earlier: _Earlier) -> _Checked:
    from dlmbuild.base_models.reference import present_reference
    from dlmbuild.doc.document import examine

    reading = examine(path, partial(present_reference, folder=path.parent))
    errors = [*reading.errors, *earlier.clashes(path, reading)]
    sources: Sequence[Found] = []
    try:
        sources = _sources(reading, path)
        errors += _empty(reading, sources, path)
    except InvalidDocument as error:
        errors += error.errors
    except OSError as error:
        errors.append(DocumentError(error.strerror or str(error), where=Where(str(error.filename or path))))
    elsewhere: Sequence[DlmError] = []
    if compat:
        from dlmbuild.doc.compat import differences

        elsewhere = differences(reading, str(path))
    return _Checked(path, reading, _in_order(errors, path), sources, elsewhere)


def _sources(reading: Reading, path: Path) -> list[Found]:
    if reading.head is None or not reading.head.sources:
        return []
    from dlmbuild.doc.sources import sources_of
    from dlmbuild.store.layout import Home

    return sources_of(reading.head, str(path), path, Home.default().sources)


def _empty(reading: Reading, sources: Sequence[Found], path: Path) -> Iterator[DocumentError]:
    """What is wrong where neither a document nor its sources give any text."""
    if reading.head is None or not sources or reading.errors or reading.body.sections:
        return
    from dlmbuild.doc.sources import without_text

    if error := without_text(sources, Where(str(path), *reading.head.marks["training", "sources"].value)):
        yield error


def _in_order(errors: list[DlmError], path: Path) -> list[DlmError]:
    """The document's own mistakes first, each file's by its lines."""
    whole = Where(str(path))
    return sorted(errors, key=lambda e: ((e.where or whole).path != str(path), e.where or whole))


def _print(found: _Checked) -> None:
    path = found.path
    for source in found.sources:
        print(f"{path}: {source}")
    for note in found.elsewhere:
        print(f"{note.where}: elsewhere: {note.what}: {note.why}")
    if not found.errors:
        return
    from dlmbuild.doc.quotation import lines_in, quotation

    text = found.reading.body.text
    files = {str(path): text.split("\n")} if text else {}
    for error in found.errors:
        head, _, do = str(error if error.where else f"{path}: {error}").partition("\n")
        quoted = ""
        if error.where and error.where.line:
            lines = files.setdefault(error.where.path, []) or lines_in(Path(error.where.path))
            files[error.where.path] = lines
            quoted = quotation(lines[error.where.line - 1], error.where) if error.where.line <= len(lines) else ""
        print("\n".join(filter(None, [head, quoted, do])), file=sys.stderr)


def _error_as_data(error: DlmError, path: Path) -> dict[str, Any]:
    where = error.where or Where(str(path))
    told = {"what": error.what, "why": error.why, "do": error.do}
    return {"path": where.path, "line": where.line, "col": where.col, **told}
