"""What a command reads of what was built, and what it says to type where that is missing or damaged."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from dlmbuild.errors import StoreError, Where

if TYPE_CHECKING:
    from dlmbuild.build.project import Project


@contextmanager
def as_built(path: Path, project: Project, task: str) -> Iterator[None]:
    """For the block, what cannot be read from a file that `task` made is that file's damage."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(
            "the file is damaged",
            where=Where(str(path)),
            why=f"{type(error).__name__}: {error}",
            do=build(project, task),
        ) from None


def build(project: Project, task: str) -> str:
    """The command that builds `task`, typed here."""
    folder = project.folder.resolve()
    return f"doit {task}" if folder == Path.cwd() else f"cd {shlex.quote(str(folder))} && doit {task}"
