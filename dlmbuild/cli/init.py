"""Start a project folder: a document to write in, the build, and what git and pre-commit should know."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from importlib.resources import files
from pathlib import Path

from dlmbuild.errors import BaseModelError, StoreError, UsageError
from dlmbuild.io.atomic import write_atomic
from dlmbuild.io.ulid import new_ulid


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="the new folder; the document in it gets its name")
    parser.add_argument("--base", default="smollm2-135m", help="the pretrained model (default smollm2-135m)")


def run(arguments: argparse.Namespace) -> int:
    from dlmbuild.base_models.reference import parse_reference
    from dlmbuild.doc.document import parse_text
    from dlmbuild.doc.mistakes import Mistakes
    from dlmbuild.doc.names import check_name
    from dlmbuild.doc.versions import NEWEST_VERSION

    folder = arguments.folder
    name = folder.resolve().name
    # Whatever is wrong with the words is refused before anything is written.
    mistakes = Mistakes(str(folder))
    check_name(name, mistakes)
    for mistake in mistakes:
        raise UsageError(mistake.what, why=mistake.why, do="dlm init with another name, for example: dlm init mybook")
    try:
        parse_reference(arguments.base, folder)
    except BaseModelError as error:
        raise UsageError(f"--base: {error.what}", why=error.why, do=error.do) from None
    templates = files("dlmbuild.cli") / "templates"
    document = (templates / "document.dlm").read_text("utf-8")
    plain = re.fullmatch(r"[\w./@~-]+(:[\w./@~-]+)?", arguments.base)
    base = arguments.base if plain else json.dumps(arguments.base, ensure_ascii=False)  # JSON's strings are YAML's, too
    written = {"dlm_id": new_ulid(), "dlm_version": str(NEWEST_VERSION), "base_model": base}
    for key, value in written.items():
        document = document.replace(f"{{{key}}}", value)
    wanted = {
        f"{name}.dlm": document,
        "dodo.py": (templates / "dodo.txt").read_text("utf-8"),
        ".gitignore": (templates / "gitignore.txt").read_text("utf-8"),
        ".pre-commit-config.yaml": (templates / "pre-commit.yaml").read_text("utf-8"),
    }
    parse_text(document, f"{name}.dlm")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", why="a project is a folder", do="dlm init with another name")
    there = [file for file in wanted if (folder / file).exists()]
    if there:
        raise UsageError(
            f"{folder / there[0]} exists already",
            why="nothing is overwritten",
            do="take another folder, or move it away",
        )
    try:
        for file, text in wanted.items():
            write_atomic(folder / file, text.encode())
    except OSError as error:
        do = "take a folder that you may write to, on a disk with room"
        raise StoreError(f"{folder} cannot be written", why=error.strerror or str(error), do=do) from None
    print(f"{folder}: " + ", ".join(wanted))
    print(f"  write:  {folder / (name + '.dlm')}")
    print(f"  build:  cd {shlex.quote(str(folder))} && doit export:Q4_K_M")
    print(f'  ask:    dlm prompt {name} "What is this document about?"')
    # Whole, because it is typed before the build or after it, in either folder.
    cd = f"cd {shlex.quote(str(folder.absolute()))}"
    print(f"  hooks:  {cd} && git init && pre-commit install -t pre-commit -t post-commit")
    return 0
