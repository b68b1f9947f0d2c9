"""What sources cost: the check of a document with ten thousand files, in full, after one edit and with nothing new.

The full pass is measured twice: with the files in the system's cache, where reading costs little more than looking, and
without (Linux), as after a start of the machine.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dlmbuild.doc import source_file, source_tree
from dlmbuild.doc.sources import Found, find_sources
from dlmbuild.io.digest import canonical_json

FILES = 10_000
GIVEN = {0: {"path": "docs", "include": ["**/*"], "exclude": [], "max_bytes_per_file": None, "max_files": None}}


class Took(NamedTuple):
    """Seconds, and what was read."""

    cpu: float
    wall: float
    files: int


def main(count: int = FILES) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        megabytes = make_tree(root / "docs", count)
        print(f"{count} source files, {megabytes:.0f} MB")
        full = min(check(root, fresh=True) for _ in range(3))
        for path in (root / "docs").rglob("*.md"):
            forget(path)
        cold = check(root, fresh=True)
        edited = min(check(root, edit=number) for number in range(15))
        null = min(check(root) for _ in range(15))
    assert (full.files, cold.files, edited.files, null.files) == (count, count, 1, 0)
    for name, took in (
        ("in full", full),
        ("in full, not cached", cold),
        ("after one edit", edited),
        ("unchanged", null),
    ):
        print(f"check {name:<20} {took.cpu:.3f} CPU s  {took.wall:.3f} s  {took.files} files read")
    print(f"one edit against a full pass: 1/{full.cpu / edited.cpu:.1f} of its CPU, ", end="")
    print(f"1/{cold.wall / edited.wall:.1f} of its time without the cache, 1/{count} of its reading")


def make_tree(folder: Path, count: int) -> float:
    """Write `count` Markdown files of 1 to 20 KB; returns their megabytes."""
    draw = random.Random(1)
    words = [f"word{number}" for number in range(5000)]
    total = 0
    for number in range(count):
        path = folder / f"part{number % 100:02}" / f"chapter{number // 1000}" / f"page{number:05}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        total += path.write_bytes(" ".join(draw.choices(words, k=draw.choice([100, 300, 900, 2400]))).encode())
    return total / 1e6


def check(root: Path, *, fresh: bool = False, edit: int | None = None) -> Took:
    """What `check` does for the sources: find them, and write down what was found."""
    memory = root / "memory"
    if fresh:
        shutil.rmtree(memory, ignore_errors=True)
    if edit is not None:
        path = root / "docs" / f"part{edit:02}" / "chapter0" / f"page{edit:05}.md"
        path.write_text(path.read_text() + "more")
    time.sleep(0.05)
    read: list[str] = []
    source_tree.examine = counted(source_file.examine, read)  # type: ignore[attr-defined]
    cpu, wall = time.process_time(), time.monotonic()
    found: list[Found] = find_sources(GIVEN, "permissive", root / "tower.dlm", memory)
    (root / "document.json").write_bytes(canonical_json([source.as_data() for source in found]))
    return Took(time.process_time() - cpu, time.monotonic() - wall, len(read))


def counted(real: Callable[..., str], names: list[str]) -> Callable[..., str]:
    def examine(name: str, *more: object, **named: object) -> str:
        names.append(name)
        return real(name, *more, **named)

    return examine


def forget(path: Path) -> None:
    """Let the system forget a file's content."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
