"""Every finished file under the name of its content, immutable: objects/<aa>/<sha256>.

Layout files are made from objects: large ones as hard links, so that a 5 GB base lies on disk once; small ones as
copies, so that somebody's careless edit of an adapter never reaches the object that would restore it.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from dlmbuild.errors import StoreError
from dlmbuild.io.atomic import STAGING_SUFFIX, fsync_path
from dlmbuild.io.statcache import StatCache

LINK_FROM_BYTES = 64 << 20
"""Files of at least this size are linked into the layout, smaller ones copied."""


@dataclass(frozen=True, slots=True)
class Objects:
    """The object folder of one home."""

    root: Path
    cache: StatCache

    def path(self, sha256: str) -> Path:
        if len(sha256) != 64 or not all(c in "0123456789abcdef" for c in sha256):
            raise StoreError(f"{sha256!r} is not the name of an object", why="names are 64 lower-case hex digits")
        return self.root / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        """Whether the object is here and its content is what its name says; a damaged one is removed."""
        path = self.path(sha256)
        try:
            if self.cache.digest(path) == sha256:
                return True
        except OSError:
            return False
        path.unlink(missing_ok=True)
        return False

    def put(self, file: Path) -> str:
        """Take over a finished file (it is moved; same filesystem) and return its digest."""
        sha256 = self.cache.digest(file)
        goal = self.path(sha256)
        if self.has(sha256):
            file.unlink()
            return sha256
        goal.parent.mkdir(parents=True, exist_ok=True)
        file.chmod(0o444)
        fsync_path(file)
        file.replace(goal)
        fsync_path(goal.parent)
        self.cache.remember(goal, sha256)
        return sha256

    def place(self, sha256: str, goal: Path) -> None:
        """Make `goal` a link to, or a copy of, an object; whatever was there is replaced in one step."""
        source = self.path(sha256)
        goal.parent.mkdir(parents=True, exist_ok=True)
        temporary = goal.with_name(f".{goal.name}.{secrets.token_hex(6)}{STAGING_SUFFIX}")
        try:
            if source.stat().st_size < LINK_FROM_BYTES or not self._link(source, temporary, sha256):
                shutil.copyfile(source, temporary)
                temporary.chmod(0o644)
                fsync_path(temporary)
            temporary.replace(goal)
            # Renaming changes ctime; nobody else has written to the file we have just made.
            self.cache.remember(goal, sha256)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync_path(goal.parent)

    def _link(self, source: Path, temporary: Path, sha256: str) -> bool:
        # A hard link changes the object's ctime. Its digest stays known only if it was known just before.
        known = self.cache.known(source) == sha256
        try:
            os.link(source, temporary)
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                return False
            raise
        if known:
            self.cache.remember(source, sha256)
        return True
