"""Say whether documents are well written: every mistake at once, as file:line:col. Trains nothing, needs no torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dlmbuild.errors import DlmError, DocumentError, InvalidDocument, UsageError, Where

if TYPE_CHECKING:
    from dlmbuild.doc.document import Reading
    from dlmbuild.doc.sources import Found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "documents", nargs="*", type=Path, help="files to check (default: every .dlm below this folder)"
    )
    parser.add_argument("--format", choices=("text", "json"), default="text", help="json is for editors and CI")
    parser.add_argument(
        "--compat", action="store_true", help="also say what the public parser of the format reads in another way"
    )


def run(arguments: argparse.Namespace) -> int:
    documents = find_documents(arguments.documents)
    data = []
    wrong = 0
    for path in documents:
        found = _check(path, arguments.compat)
        wrong += bool(found.errors)
        if arguments.format == "json":
            data.append(found.as_data())
        else:
            _print(found)
    if arguments.format == "json":
        from dlmbuild.io.digest import readable_json

        print(readable_json({"documents": data}).decode(), end="")
    else:
        good = len(documents) - wrong
        print(
            f"{good} of {len(documents)} documents are well written" if wrong else f"{good} checked, all well written"
        )
    return 1 if wrong else 0


def find_documents(named: Sequence[Path]) -> Sequence[Path]:
    """The documents of a command line, by default all below this folder. Raises UsageError where there is none."""
    documents = named or sorted(p for p in Path().rglob("*.dlm") if not any(part.startswith(".") for part in p.parts))
    if not documents:
        raise UsageError("there is no .dlm document below this folder", do="dlm init mybook, or name a file")
    return documents


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


def _check(path: Path, compat: bool) -> _Checked:
    from dlmbuild.base_models.reference import parse_reference
    from dlmbuild.doc.document import examine

    reading = examine(path, partial(parse_reference, folder=path.parent))
    errors: Sequence[DlmError] = reading.errors
    sources: Sequence[Found] = []
    if not errors:
        try:
            sources = _sources(reading, path)
        except InvalidDocument as error:
            errors = error.errors
        except DlmError as error:
            errors = [error]
        except OSError as error:
            errors = [DocumentError(error.strerror or str(error), where=Where(str(error.filename or path)))]
    elsewhere: Sequence[DlmError] = []
    if compat:
        from dlmbuild.doc.compat import differences

        elsewhere = differences(reading, str(path))
    return _Checked(path, reading, errors, sources, elsewhere)


def _sources(reading: Reading, path: Path) -> list[Found]:
    from dlmbuild.doc.document import document_of

    document = document_of(reading, str(path))
    if not document.frontmatter.training.sources:
        return []
    from dlmbuild.doc.sources import sources_of
    from dlmbuild.store.layout import Home

    return sources_of(document, path, Home.default().sources)


def _print(found: _Checked) -> None:
    path, text = found.path, found.reading.body.text
    for source in found.sources:
        print(f"{path}: {source}")
    for note in found.elsewhere:
        print(f"{note.where}: elsewhere: {note.what}: {note.why}")
    if not found.errors:
        return
    from dlmbuild.doc.quotation import quotation

    lines = text.split("\n") if text else []
    for error in found.errors:
        head, _, do = str(error if error.where else f"{path}: {error}").partition("\n")
        here = error.where if error.where and error.where.path == str(path) else None
        quoted = quotation(lines[here.line - 1], here) if here and 0 < here.line <= len(lines) else ""
        print("\n".join(filter(None, [head, quoted, do])), file=sys.stderr)


def _error_as_data(error: DlmError, path: Path) -> dict[str, Any]:
    where = error.where or Where(str(path))
    told = {"what": error.what, "why": error.why, "do": error.do}
    return {"path": where.path, "line": where.line, "col": where.col, **told}
