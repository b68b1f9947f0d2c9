"""built.json: which record stands behind what lies in a store or base folder now, step by step.

Not asked whether anything is up to date (the records answer that); it says what a step was made from the last time, so
that `why` can name what is different, and which records are in use.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from dlmbuild.errors import StoreError, Where
from dlmbuild.io.atomic import write_atomic
from dlmbuild.io.digest import readable_json


def read_built(folder: Path) -> dict[str, str]:
    """Step (`train`, `export:Q4_K_M`) → key of its record. Empty where nothing was built, or the file is damaged."""
    with suppress(StoreError):
        return all_built(folder)
    return {}


def all_built(folder: Path) -> dict[str, str]:
    """The same, for who deletes what is not in use. Raises StoreError for a file that does not tell what is."""
    path = folder / "built.json"
    try:
        data = json.loads(path.read_bytes())
        return {str(step): str(key) for step, key in data.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise StoreError(
            "it cannot be told what is in use here",
            where=Where(str(path)),
            why=f"the file is damaged: {error}",
            do="build once more in its project, which writes the file anew, with: doit",
        ) from None


def note_built(folder: Path, step: str, key: str) -> None:
    """Remember that `step` is in place with this key. The caller holds the folder's lock."""
    built = read_built(folder)
    if built.get(step) != key:
        write_atomic(folder / "built.json", readable_json({**built, step: key}))
