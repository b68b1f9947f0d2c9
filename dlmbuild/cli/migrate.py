"""Bring documents to the newest version of the format: shows what would change, and with --write does it."""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path

from dlmbuild.cli.check import EVERY_DOCUMENT, find_documents
from dlmbuild.errors import DlmError, DocumentError, Where
from dlmbuild.io.atomic import free_name, write_atomic
from dlmbuild.io.text import decode_text, read_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("documents", nargs="*", type=Path, help=f"files (default: {EVERY_DOCUMENT})")
    parser.add_argument("--write", action="store_true", help="change the files; each is kept beside it as NAME.dlm.bak")


def run(arguments: argparse.Namespace) -> int:
    from dlmbuild.doc.edits import edited, unified_diff
    from dlmbuild.doc.migrations import migration
    from dlmbuild.doc.versions import NEWEST_VERSION

    gc.set_threshold(100_000)  # as in a check
    wrong = changed = 0
    for path in find_documents(arguments.documents):
        try:
            data = read_bytes(path)
            edits = migration(data, str(path))
            if not edits:
                print(f"{path} is at version {NEWEST_VERSION} already")
                continue
            changed += 1
            if not arguments.write:
                print(unified_diff(decode_text(data, str(path)), edits, str(path)), end="")
                continue
            try:
                kept = _replace(path, data, edited(data, edits))
            except OSError as error:
                why, do = error.strerror or str(error), "make its folder writable, on a disk with room"
                raise DocumentError("the file cannot be written", where=Where(str(path)), why=why, do=do) from None
            print(f"{path} is at version {NEWEST_VERSION} now; as it was: {kept}")
        except DlmError as error:
            print(error, file=sys.stderr)
            wrong += 1
    if changed and not arguments.write:
        print("nothing is written; dlm migrate --write does this", file=sys.stderr)
    return 1 if wrong else 0


def _replace(path: Path, data: bytes, new: bytes) -> Path:
    """Write a document anew, keeping it as it was in another file. Raises DocumentError if it changed meanwhile."""
    path = path.resolve()  # a link stays one
    kept = free_name(path, "bak")
    mode = path.stat().st_mode
    write_atomic(kept, data, mode)
    if read_bytes(path) != data:
        raise DocumentError("the file was changed meanwhile", where=Where(str(path)), do="run dlm migrate again")
    write_atomic(path, new, mode)
    return kept
