"""What goes wrong in a person's dodo.py, told as a mistake in that file."""

from __future__ import annotations

import ast
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from doit.exceptions import InvalidCommand, InvalidDodoFile

from dlmbuild.errors import DlmError, UsageError, Where


@contextmanager
def running_dodo(path: Path, *, sought: bool = True) -> Iterator[None]:
    """For the block, in which the dodo file `path` runs, whatever it raises is a UsageError with its position.

    Raises UsageError as well where there is no such file, if it is `sought` in the current folder only.
    """
    if sought and not path.is_file():
        raise UsageError(
            f"there is no {path.name} in this folder" if path.name == "dodo.py" else f"there is no file {path}",
            why="it says which documents belong to a project",
            do="go to the project's folder, or begin a project: dlm init mybook",
        )
    try:
        yield
    except InvalidDodoFile as error:
        if isinstance(error.__cause__, DlmError):
            raise error.__cause__ from None
        raise UsageError(str(error).strip()) from None
    except (DlmError, InvalidCommand):
        raise
    except SyntaxError as error:
        where = Where(_shown(error.filename or str(path)), error.lineno or 0, error.offset or 0)
        raise UsageError(error.msg, where=where, do="mend this line") from None
    except Exception as error:
        if os.environ.get("DLM_VERBOSE"):
            raise
        told = f"{type(error).__name__}: {error}"
        raise UsageError(told, where=_last_line(error, path), do="mend this line") from None


def _last_line(error: Exception, path: Path) -> Where:
    """The place in `path` that the error came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == path.absolute()]
    if not frames:
        return Where(str(path))
    return Where(_shown(frames[-1].filename), frames[-1].lineno or 0, (frames[-1].colno or 0) + 1)


def _shown(path: str) -> str:
    """The path from here, where it lies below the current folder."""
    found = Path(path)
    return str(found.relative_to(Path.cwd())) if found.is_relative_to(Path.cwd()) else path


def built_together(one: Path, other: Path) -> bool:
    """Whether the nearest dodo file above two documents declares them both, as far as it spells its patterns out.

    Where it declares neither, or there is none, documents in one folder count as built together.
    """
    paths = {Path(os.path.abspath(path)) for path in (one, other)}  # noqa: PTH100 - of links, not of what they lead to
    if len(paths) == 1:
        return False
    above = sorted(set.intersection(*(set(path.parents) for path in paths)), reverse=True)  # each lies in the next
    nearest = next((folder for folder in above if (folder / "dodo.py").is_file()), None)
    declared = paths & set(_matching(nearest, _patterns(nearest / "dodo.py"))) if nearest else set()
    return declared == paths or (not declared and len({path.parent for path in paths}) == 1)


def _patterns(dodo: Path) -> list[str]:
    """What a dodo file gives to `project(…)` in so many words."""
    try:
        tree = ast.parse(dodo.read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError):
        return []
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "project")
    given = (word.value for call in calls for word in call.args if isinstance(word, ast.Constant))
    return [word for word in given if isinstance(word, str)]


def _matching(folder: Path, patterns: list[str]) -> Iterator[Path]:
    for pattern in patterns:
        with suppress(ValueError, NotImplementedError):  # no pattern: whoever builds is told
            yield from folder.glob(pattern)
