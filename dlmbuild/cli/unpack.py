"""Bring in a document and its trained adapter from a .dlm.pack file (`doit pack:NAME` makes one)."""

from __future__ import annotations

import argparse
import os
import shlex
from importlib.resources import files
from pathlib import Path

from dlmbuild.io.atomic import write_atomic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pack", type=Path, help="the file")
    parser.add_argument("--check", action="store_true", help="only check it, and write nothing")
    parser.add_argument("--force", action="store_true", help="replace a document that differs, and keep it beside")


def run(arguments: argparse.Namespace) -> int:
    from dlmbuild.pack.unpack import check_pack, unpack
    from dlmbuild.store.layout import Home

    if arguments.check:
        header, base = check_pack(arguments.pack, Home.default())
        print(f"{arguments.pack}: {header.name} ({header.dlm_id}) on {base}, {len(header.records)} trainings")
        print(f"  {len(header.objects)} files, {sum(header.objects.values()) / 1e6:.1f} MB, all as their digests say")
        return 0
    done = unpack(arguments.pack, Path.cwd(), Home.default(), force=arguments.force)
    its = "has to lie there" if done.base.startswith("file:") else "will be fetched"
    print(f"{done.document.name}: on {done.base}, which is not in the pack and {its}")
    if done.kept:
        print(f"  the one that was here is {done.kept.name} now")
    print("  its adapter comes from whoever packed it; you believe them that it was trained from this document")
    dodo = Path.cwd() / "dodo.py"
    if not os.path.lexists(dodo):
        write_atomic(dodo, (files("dlmbuild.cli") / "templates" / "dodo.txt").read_bytes())
        print("  dodo.py is new as well: it builds every document of this folder")
    print(f"  next:  doit export:{shlex.quote(done.header.name)}")
    return 0
