"""The words of a command line, and what more than one command says about them."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dlmbuild.errors import UsageError

if TYPE_CHECKING:
    from dlmbuild.build.project import Document, Project


class Parser(argparse.ArgumentParser):
    """argparse, whose complaints are usage errors like any other."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message}", do=f"{self.prog} --help")

    def _print_message(self, message: str, file: Any = None) -> None:
        stream = file or sys.stdout
        stream.write(message)
        stream.flush()  # argparse would leave a full disk out


def no_empty_word(words: Sequence[str]) -> None:
    """Refuse what a variable without a value leaves on a command line."""
    if "" in words:
        raise UsageError("a word of the command line is empty", do="dlm --help")


def as_json(data: Any) -> str:
    """What every `--json` prints. A name that is no UTF-8 is spelled `\\udcff`, which is JSON as well."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()


def whole(low: int, high: int) -> Callable[[str], int]:
    """Reads a whole number from `low` to `high`."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = low - 1
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"{text} is not a whole number from {low} to {high}")
        return number

    return read


def real(allowed: str, fits: Callable[[float], bool]) -> Callable[[str], float]:
    """Reads a number that `fits`; `allowed` says in words which those are."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = float("nan")
        if not fits(number):  # nothing that compares numbers holds for nan
            raise argparse.ArgumentTypeError(f"{text} is not {allowed}")
        return number

    return read


def documents_meant(named: str | None) -> tuple[Project, list[Document]]:
    """The document that is named, or all of the project here, whose stores can be read; and their project."""
    from dlmbuild.build.project import find_document, project_of
    from dlmbuild.store.disk import require_readable

    if named:
        project, one = find_document(named, Path.cwd())
        documents = [one]
    else:
        project = project_of(Path.cwd())
        documents = project.documents
        tell_of_broken(project)
    require_readable(project.archive.home, *(document.store.root for document in documents))
    return project, documents


def tell_of_broken(project: Project) -> None:
    """Say which documents of a project are left out because of their mistakes."""
    for broken in project.broken:
        check = shlex.join(["dlm", "check", str(broken.path)])
        print(f"{broken.path} has mistakes and is left out; `{check}` says which", file=sys.stderr)
