"""What the last build that ended well looked at, so that the next one with the same words may know that it has nothing
to do: by one `stat` per file and one listing per folder, without taking the graph apart.

A note has two parts, each after its length and checksum: first what was looked at, which `dlm build` answers from
before doit is even imported; then the tasks of the graph, from which `doit` gets its graph again without making it.
Little more than what the interpreter has loaded anyway is imported here: not `typing`, and `json` only for the graph.
Whatever is out of the ordinary (an option, a variable, another environment, a configuration of doit's, any changed
file) takes the long way, which is always right.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

_ENVIRONMENT = ("DLM_LOCK", "DLM_FULL", "CUDA_VISIBLE_DEVICES", "DLM_PRE_TOKENIZER", "PYTHONPATH", "PYTHONNOUSERSITE")
_ELSEWHERE = ("DOIT_FILE", "DOIT_SEEK_FILE")
"""Variables by which doit takes another dodo file."""
_DATABASE = ".doit.db"
_END = b"\0"
"""No path holds it."""
_SEPARATOR = os.sep.encode()
_GRANULARITY_NS = 20_000_000
"""As in io/statcache.py."""
_RELATIVE = os.stat in os.supports_dir_fd
"""Whether folders of the store are noted relative to it: the system then walks half the way, for thousands of files."""
_KEPT = ("basename", "name", "doc", "file_dep", "targets", "task_dep")

created: dict[str, list[Any]] = {}
"""The patterns of each `project(…)` of the dodo file, as JSON → the tasks that it yielded to doit in this process."""


loaded_by_hand = False
"""Set while the dodo file is run for something else than a build: then nothing but the whole graph will do."""


class Note:
    """A note whose stats are still true."""

    def __init__(self, steps: int, alone: bool, graph: bytes) -> None:
        self.steps = steps
        self.alone = alone
        """Whether there are no tasks but ours: a person's own are made by their code, which is run to know them."""
        self.graph = graph
        """The second part, if it was asked for."""


def plain_words(argv: Sequence[str]) -> list[str] | None:
    """The tasks that a command line asks for; None if it says anything else, an option or a variable."""
    words = list(argv[1:])
    if words and words[0] == "run":
        words.pop(0)
    if any(map(os.environ.get, _ELSEWHERE)):
        return None
    return None if any(word.startswith("-") or "=" in word for word in words) else words


def still_true(words: Sequence[str], *, graph: bool = True) -> Note | None:
    """The note of the last build with these words, if nothing that it looked at has changed."""
    if loaded_by_hand:
        return None
    try:
        with open(_file(words), "rb") as file:  # noqa: PTH123 - pathlib is not needed for this
            about, steps, alone, stats, listed, *fields = _unsealed(file).split(_END)
            count = 2 * int(listed)
            folders = zip(fields[:count:2], fields[1:count:2], strict=True)
            if about != _about(words) or _stats(fields[count:]) != int(stats):
                return None
            if any(str(_names(os.fsdecode(folder))).encode() != names for folder, names in folders):
                return None
            return Note(int(steps), alone == b"alone", _unsealed(file) if graph else b"")
    except (OSError, ValueError):
        return None


def write_note(words: Sequence[str], steps: Sequence[Any], noticed: Mapping[Any, object]) -> None:
    """Note what a build that ended well looked at: `steps` are those of the build; `noticed` files and folders beside,
    with how they looked when the graph was made.

    Without effect where a step is out of date again, one of these looks different by now, the dodo file does more than
    declare projects and tasks, doit has settings of its own, there is no home yet, or nothing can be written.
    """
    import contextlib
    import json
    import time
    from pathlib import Path

    from dlmbuild.build.declaration import OURS, configures_doit, declared_names
    from dlmbuild.io.atomic import write_atomic

    entered = time.time_ns()
    home, bound = _home(), declared_names("dodo.py")
    if bound is None or configures_doit() or not os.path.isdir(home):  # noqa: PTH112
        return
    ours = (home + os.sep, os.path.abspath(_DATABASE))  # noqa: PTH100
    paths: set[Path] = set()
    for step in steps:
        watched = step.watched()
        if watched is None:
            return  # it was ignored, or changed again: the next build has to look
        paths.update(watched)
    if any(appearance(str(path)) != then for path, then in noticed.items()):
        return
    folders = {str(path.absolute()): then for path, then in noticed.items() if path.is_dir()}
    beside = [path for path in noticed if not path.is_dir()]
    looked_at = {str(path.absolute()) for path in (*paths, *beside, Path(_DATABASE))}
    near = home + os.sep if _RELATIVE else ""
    files: dict[str, list[str]] = {}
    for path in sorted(looked_at.union(_installed()) - folders.keys()):  # doit adds the project's folder to sys.path
        folder, name = os.path.split(path)
        files.setdefault(os.path.join(folder, "").removeprefix(near), []).append(name)  # noqa: PTH118
    fields = [os.fsencode(field) for folder, names in files.items() for field in (folder, *names)]
    listed = [field for path, then in folders.items() for field in (os.fsencode(path), str(then).encode())]
    counts = [b"%d" % len(steps), b"alone" if bound <= {OURS} else b"", b"%d" % _stats(fields), b"%d" % len(folders)]
    # Looked at last: what was written just now may have been written after its content was looked at. What builds write
    # they wrote before we came here; the time of any other file may lie a tick of the clock before that.
    if any(max(_stat(path)[:2]) > entered - (0 if path.startswith(ours) else _GRANULARITY_NS) for path in looked_at):
        return
    tasks = {patterns: [_as_data(task) for task in tasks] for patterns, tasks in created.items()}
    graph = json.dumps({"asked": [step.name for step in steps], "tasks": tasks}).encode()
    with contextlib.suppress(OSError):  # only a shortcut
        noted = _END.join((_about(words), *counts, *listed, *fields))
        write_atomic(Path(_file(words)), b"".join(map(_sealed, (noted, graph))))


def remembered_graph(
    note: Note, patterns: str, ask: Callable[[str, bool], bool], run: Callable[[str], Any]
) -> list[Any] | None:
    """The tasks of a note's graph, for doit; None where the note knows no such patterns.

    Steps are up to date if `ask` says so of their name, and of whether the noted build looked at them; what is to be
    done is `run`, called with the name.
    """
    import json

    try:
        graph = json.loads(note.graph)
        asked = frozenset(graph["asked"])
        return list(_tasks(graph["tasks"][patterns], _Ask(lambda name: ask(name, name in asked)), run))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _sealed(part: bytes) -> bytes:
    return b"%d %d\n%b" % (len(part), zlib.crc32(part), part)


def _unsealed(file: BinaryIO) -> bytes:
    """The next part of a note. Raises ValueError if it is damaged."""
    size, seal = map(int, file.readline().split())
    if not 0 <= size <= os.fstat(file.fileno()).st_size or seal != zlib.crc32(part := file.read(size)):
        raise ValueError("the note is damaged")
    return part


class _Ask:
    """Asks whether a step is up to date. doit looks at the signature of whatever it calls, each time anew."""

    def __init__(self, ask: Callable[[str], bool]) -> None:
        import inspect

        self._ask = ask
        self.__signature__ = inspect.Signature([inspect.Parameter("name", inspect.Parameter.POSITIONAL_ONLY)])

    def __call__(self, name: str) -> bool:
        return self._ask(name)


def _tasks(graph: list[dict[str, Any]], ask: Callable[[str], bool], run: Callable[[str], Any]) -> Iterator[Any]:
    for task in graph:
        acts = task.pop("acts", None)
        if acts is None:
            yield task
        elif acts == "group":
            from doit.task import Task

            yield Task(task["basename"], None, doc=task["doc"], task_dep=task["task_dep"], has_subtask=True)
        else:
            name = f"{task['basename']}:{task['name']}"
            task["actions"] = [(run, [name])] if acts else None
            task["io"] = {"capture": False}
            if acts == "step":
                task["uptodate"] = [(ask, [name])]
            yield task


def _as_data(task: Any) -> dict[str, Any]:
    if not isinstance(task, dict):
        return {"basename": task.name, "doc": task.doc, "task_dep": list(task.task_dep), "acts": "group"}
    kept = {name: task[name] for name in _KEPT if name in task}
    if task["name"] is None:
        return kept
    step = "step" in (task.get("meta") or {})
    return {**kept, "acts": "step" if step else "other" if task["actions"] else ""}


def _about(words: Sequence[str]) -> bytes:
    # The machine, as far as a plan without a lock can depend on it and as it can change between two runs.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    pages = os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    kernel = [os.uname().release, os.uname().machine] if hasattr(os, "uname") else []
    machine = [*kernel, cores, pages, os.path.exists("/proc/driver/nvidia/version")]  # noqa: PTH110
    environment = [os.environ.get(name) for name in _ENVIRONMENT]
    return ascii([os.getcwd(), _home(), list(words), sys.executable, environment, machine]).encode()  # noqa: PTH109


def _file(words: Sequence[str]) -> str:
    name = zlib.crc32(_about(words))
    return os.path.join(_home(), "uptodate", f"{name:08x}")  # noqa: PTH118


def _home() -> str:
    home = os.environ.get("DLM_HOME") or os.path.join("~", ".dlm")  # noqa: PTH118
    return os.path.join(os.getcwd(), os.path.expanduser(home))  # noqa: PTH109, PTH111, PTH118


def _installed() -> Iterable[str]:
    """What changes when a package is installed or this one is pulled, and the registry, which `auto` comes from."""
    from pathlib import Path

    import dlmbuild

    package = Path(dlmbuild.__file__ or "").parent
    graph = Path(sys.modules["dlmbuild.rules"].__file__ or "").parent
    code = sorted([*graph.glob("*.py"), *(package / "build").glob("*.py")])
    registry = package / "base_models" / "registry.toml"
    return [*filter(os.path.isdir, sys.path), *map(str, [registry, *code])]


def _stats(fields: Iterable[bytes]) -> int:
    """One number for the stats of all files; hashes of integers are the same in every process.

    `fields`: a folder, which ends with a separator, the names of its files; the next folder …
    """
    found, folder = 0, b""
    near = os.open(_home(), os.O_RDONLY) if _RELATIVE else None
    try:
        for name in fields:
            if name.endswith(_SEPARATOR):
                folder = name
                continue
            try:
                look = os.stat(folder + name, dir_fd=near)
                found = hash((found, look.st_mtime_ns, look.st_ctime_ns, look.st_size, look.st_ino))
            except OSError:
                found = hash((found, 0))
    finally:
        if near is not None:
            os.close(near)
    return found


def _stat(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:
        return (0, 0)
    return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)


def appearance(path: str) -> object:
    """What a file, or a folder in which documents are looked for, looks like now."""
    return _names(path) if os.path.isdir(path) else _stat(path)  # noqa: PTH112


def _names(folder: str) -> int | None:
    """What lies in a folder in which documents are looked for, without the database that doit opens there."""
    try:
        with os.scandir(folder) as entries:
            found = [f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries]
        names = sorted(name for name in found if not name.startswith(_DATABASE))
    except OSError:
        return None
    return zlib.crc32("\0".join(names).encode("utf-8", "surrogateescape"))
