"""Two documents that cannot be built side by side: one is called as the other, or says that it is the other."""

from __future__ import annotations

import shlex
from pathlib import Path

from dlmbuild.doc.document import examine
from dlmbuild.doc.frontmatter import Head
from dlmbuild.errors import DocumentError, Where
from dlmbuild.io.ulid import new_ulid


def same_id(first: Path, second: Path, dlm_id: str, head: Head | None = None) -> DocumentError:
    """Both have this id, which shall be told of the `second`; `head` is its frontmatter, read if it is not given."""
    head = head or examine(second).head
    mark = head.marks.get(("dlm_id",)) if head else None
    return DocumentError(
        f"{first} and {second} have the same dlm_id {dlm_id}",
        where=Where(str(second), *(mark.value if mark else ())),
        why="one is a copy of the other, and what is built from a document lies under its id",
        do=f"give the copy an id of its own; this one is fresh: dlm_id: {new_ulid()}",
    )


def same_name(first: Path, second: Path) -> DocumentError:
    """Both have this name, which shall be told of the `second`."""
    return DocumentError(
        f"{first} and {second} have the same name",
        where=Where(str(second), 1, 1),
        why="tasks are named after documents",
        do=f"rename one of them: {shlex.join(['mv', str(second), str(second.with_stem(second.stem + '-2'))])}",
    )
