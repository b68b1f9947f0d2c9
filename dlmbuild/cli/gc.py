"""Make room: what nothing needs any more. Says what would go; `--delete` lets it go."""

from __future__ import annotations

import argparse
import shutil
import sys
from functools import partial
from pathlib import Path

from dlmbuild.cli.words import whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--delete", action="store_true", help="delete it; without this nothing is touched")
    parser.add_argument(
        "--versions", type=whole(1, 10**6), default=3, metavar="N", help="adapter versions to keep (default 3)"
    )
    parser.add_argument("--verbose", action="store_true", help="name each file")


def run(arguments: argparse.Namespace) -> int:
    from dlmbuild.io.statcache import StatCache
    from dlmbuild.store.disk import require_readable
    from dlmbuild.store.exclusive import all_exclusive
    from dlmbuild.store.gc import garbage, lockable
    from dlmbuild.store.layout import Home
    from dlmbuild.store.objects import Objects

    home = Home.default()
    require_readable(home)
    locked = partial(lockable, home) if arguments.delete else list[Path]
    with all_exclusive(locked, "dlm gc", lambda text: print(text, file=sys.stderr)):
        found = list(garbage(home, Objects(home.objects, StatCache(home.stat_cache)), arguments.versions))
        for item in found:
            if arguments.verbose:
                print(f"{_megabytes(item.bytes)}  {item.path.relative_to(home.root)}  ({item.why})")
            if arguments.delete:
                shutil.rmtree(item.path) if item.path.is_dir() else item.path.unlink(missing_ok=True)
    total = _megabytes(sum(item.bytes for item in found)).strip()
    if arguments.delete:
        print(f"{len(found)} things deleted, {total}")
    else:
        print(f"{len(found)} things could go, {total} (large files count once for each name)")
        print("  → dlm gc --delete" if found else "  nothing to do")
    return 0


def _megabytes(size: int) -> str:
    return f"{size / 1e6:9.1f} MB"
