"""Say whether documents are well written: every mistake at once, as file:line:col. Trains nothing, needs no torch."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from dlmbuild.errors import DlmError, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "documents", nargs="*", type=Path, help="files to check (default: every .dlm below this folder)"
    )


def run(arguments: argparse.Namespace) -> int:
    from dlmbuild.base_models.reference import parse_reference
    from dlmbuild.doc.document import parse

    documents = arguments.documents or sorted(p for p in Path().rglob("*.dlm") if not _hidden(p))
    if not documents:
        raise UsageError("there is no .dlm document below this folder", do="dlm init mybook, or name a file")
    wrong = 0
    for path in documents:
        try:
            document = parse(path)
            parse_reference(document.frontmatter.base_model, path.parent)
        except DlmError as error:
            print(error if error.where else f"{path}: {error}", file=sys.stderr)
            wrong += 1
        except OSError as error:
            print(f"{path}: {error.strerror}", file=sys.stderr)
            wrong += 1
    good = len(documents) - wrong
    print(f"{good} of {len(documents)} documents are well written" if wrong else f"{good} checked, all well written")
    return 1 if wrong else 0


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
