"""What goes wrong in a person's dodo.py, told as a mistake in that file."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
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
