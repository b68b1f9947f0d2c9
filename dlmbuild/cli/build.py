"""`dlm build [TASK …]`: what `doit` does, with "everything is up to date" answered before doit is even imported.

After a build in which all went well, the stat of every file and folder that it looked at is noted. As long as none of
them changes, the next build with the same words would do nothing, and that is known in a few milliseconds. Little more
than what the interpreter has loaded anyway is imported for it.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Iterable

_HELP = """usage: dlm build [OPTION …] [TASK …]

What `doit` does, and known in a few milliseconds when there is nothing to do.

  TASK     as `doit list --all` shows them; without one, the default export of every document
  OPTION   those of `doit`, which `dlm help run` shows, for example -n 2 for two steps at a time"""

_ENVIRONMENT = ("DLM_LOCK", "CUDA_VISIBLE_DEVICES")


def run(words: list[str]) -> int:
    """Build; `words` are doit's. Returns doit's exit code in `dlm`'s terms."""
    if "--help" in words or "-h" in words:
        print(_HELP)
        return 0
    note = _note_file(words)
    steps = _still_up_to_date(note, words)
    if steps is not None:
        print(f"everything is up to date ({steps} steps)")
        return 0
    from dlmbuild.build.reporter import last_run
    from dlmbuild.cli import run_doit

    code = run_doit(["run", *words])
    tasks = last_run()
    if code == 0 and tasks is not None:
        _write(note, words, *tasks)
    return code


def _still_up_to_date(note: str, words: list[str]) -> int | None:
    """How many steps are known to be up to date; None where that is not known."""
    try:
        with open(note, encoding="utf-8") as file:  # noqa: PTH123 - pathlib is not needed for this
            data = json.load(file)
        if data["about"] != _about(words):
            return None
        for path, stat in data["stats"].items():
            if _stat(path) != stat:
                return None
        for path, names in data["folders"].items():
            if _names(path) != names:
                return None
        return int(data["steps"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(note: str, words: list[str], tasks: dict[str, object], selected: list[str]) -> None:
    import contextlib
    from pathlib import Path

    from dlmbuild.build.project import Project
    from dlmbuild.build.why import steps_of
    from dlmbuild.io.atomic import write_atomic
    from dlmbuild.io.digest import canonical_json

    steps = steps_of(tasks, selected)
    paths: set[Path] = set()
    for step in steps:
        watched = step.watched()
        if watched is None:
            return  # it was ignored, or changed again: the next build has to look
        paths.update(watched)
    folders = {str(path.absolute()): _names(str(path)) for path in Project.noticed if path.is_dir()}
    paths.update(Project.noticed)
    stats = {str(path.absolute()): _stat(str(path)) for path in paths if str(path.absolute()) not in folders}
    stats.update({path: _stat(path) for path in _installed()})
    noted = {"about": _about(words), "steps": len(steps), "stats": stats, "folders": folders}
    with contextlib.suppress(OSError):  # only a shortcut
        write_atomic(Path(note), canonical_json(noted))


def _about(words: list[str]) -> list[object]:
    return [os.getcwd(), words, sys.executable, [os.environ.get(name) for name in _ENVIRONMENT]]  # noqa: PTH109


def _note_file(words: list[str]) -> str:
    home = os.environ.get("DLM_HOME") or os.path.join(os.path.expanduser("~"), ".dlm")  # noqa: PTH111, PTH118
    name = zlib.crc32(json.dumps(_about(words)).encode())
    return os.path.join(os.path.expanduser(home), "uptodate", f"{name:08x}.json")  # noqa: PTH111, PTH118


def _installed() -> Iterable[str]:
    """Folders that change when a package is installed, and the registry, which `auto` and bases come from."""
    import dlmbuild

    package = os.path.dirname(dlmbuild.__file__ or "")  # noqa: PTH120
    return [*filter(os.path.isdir, sys.path), os.path.join(package, "base_models", "registry.toml")]  # noqa: PTH118


def _stat(path: str) -> list[int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return None
    return [found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino]


def _names(folder: str) -> int | None:
    """What lies in a folder in which documents are looked for, without the database that doit opens there."""
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith(".doit.db"))  # noqa: PTH208
    except OSError:
        return None
    return zlib.crc32("\0".join(names).encode("utf-8", "surrogateescape"))
