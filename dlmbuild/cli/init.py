"""Start a project folder: a document to write in, the build, and what git and pre-commit should know."""

from __future__ import annotations

import argparse
from importlib.resources import files
from pathlib import Path

from dlmbuild.errors import UsageError
from dlmbuild.io.atomic import write_atomic
from dlmbuild.io.ulid import new_ulid


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="the new folder; the document in it gets its name")
    parser.add_argument("--base", default="smollm2-135m", help="the pretrained model (default smollm2-135m)")


def run(arguments: argparse.Namespace) -> int:
    from dlmbuild.base_models.reference import parse_reference
    from dlmbuild.doc.document import parse_text

    folder = arguments.folder
    name = folder.resolve().name
    parse_reference(arguments.base, folder)
    templates = files("dlmbuild.cli") / "templates"
    document = (templates / "document.dlm").read_text("utf-8")
    document = document.replace("{dlm_id}", new_ulid()).replace("{base_model}", arguments.base)
    wanted = {
        f"{name}.dlm": document,
        "dodo.py": (templates / "dodo.txt").read_text("utf-8"),
        ".gitignore": (templates / "gitignore.txt").read_text("utf-8"),
        ".pre-commit-config.yaml": (templates / "pre-commit.yaml").read_text("utf-8"),
    }
    # A folder whose name cannot name a document is refused before anything is written.
    parse_text(document, f"{name}.dlm")
    there = [file for file in wanted if (folder / file).exists()]
    if there:
        raise UsageError(
            f"{folder / there[0]} exists already",
            why="nothing is overwritten",
            do="take another folder, or move it away",
        )
    for file, text in wanted.items():
        write_atomic(folder / file, text.encode())
    print(f"{folder}: " + ", ".join(wanted))
    print(f"  write:  {folder / (name + '.dlm')}")
    print(f"  build:  cd {folder} && doit export:Q4_K_M")
    print(f'  ask:    dlm prompt {name} "What is this document about?"')
    print("  hooks:  git init && pre-commit install -t pre-commit -t post-commit")
    return 0
