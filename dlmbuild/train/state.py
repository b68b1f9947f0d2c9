"""Checkpoints of an unfinished training, so that a kill costs a minute and not the run.

The trainer writes them; here each is sealed with the digests of its files once it is whole, and only a sealed one whose
files still match is ever resumed from. They belong to one key: other rows or settings never continue them.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from dlmbuild.errors import UsageError
from dlmbuild.io.atomic import fsync_tree, write_atomic
from dlmbuild.io.digest import readable_json, sha256_file

_SEAL = "sealed.json"
_EVERY = "DLM_CHECKPOINT_SECONDS"


def seconds_between_checkpoints() -> float:
    """$DLM_CHECKPOINT_SECONDS, or a minute. Raises UsageError for what is no number of seconds."""
    written = os.environ.get(_EVERY) or "60"
    try:
        seconds = float(written)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise UsageError(f"{_EVERY} is {written!r}, not a number of seconds", do="unset it, or set it to 60")
    return seconds


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints of one training below `folder`, named checkpoint-<step> by the trainer."""

    folder: Path

    def seal(self, step: int) -> None:
        """The checkpoint of `step` is whole: note its files, and drop the earlier ones."""
        checkpoint = self.folder / f"checkpoint-{step}"
        fsync_tree(checkpoint)
        digests = {path.name: sha256_file(path) for path in sorted(checkpoint.iterdir())}
        write_atomic(checkpoint / _SEAL, readable_json(digests))
        for other in self._all():
            if other != checkpoint:
                shutil.rmtree(other, ignore_errors=True)

    def latest(self) -> Path | None:
        """The newest checkpoint that can be believed."""
        return next((path for path in reversed(self._all()) if _intact(path)), None)

    def _all(self) -> list[Path]:
        found = [path for path in self.folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdigit()]
        return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def _intact(checkpoint: Path) -> bool:
    try:
        digests = dict(json.loads((checkpoint / _SEAL).read_bytes()))
        return all(sha256_file(checkpoint / name) == sha256 for name, sha256 in digests.items())
    except (OSError, ValueError, TypeError):
        return False
