"""Every finished file under the name of its content, immutable: objects/<aa>/<sha256>.

Layout files are made from objects: large ones as hard links, so that a 5 GB base lies on disk once; small ones as
copies, so that somebody's careless edit of an adapter never reaches the object that would restore it.
"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from dlmbuild.errors import StoreError
from dlmbuild.io.atomic import STAGING_SUFFIX, fsync_path
from dlmbuild.io.statcache import StatCache

LINK_FROM_BYTES = 64 << 20
"""Files of at least this size are linked into the layout, smaller ones copied."""


class Objects(NamedTuple):
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
            self.cache.remember(goal, sha256)  # where the file was a link to it, unlinking has changed its ctime
            return sha256
        goal.parent.mkdir(parents=True, exist_ok=True)
        file.chmod(0o444)
        fsync_path(file)
        file.replace(goal)
        fsync_path(goal.parent)
        self.cache.remember(goal, sha256)
        return sha256

    def keep(self, file: Path) -> str:
        """The digest of a file of the layout, which stays; its object is made again where somebody removed it."""
        sha256 = self.cache.digest(file)
        if not self.has(sha256):
            temporary = self.root / f".{os.urandom(6).hex()}{STAGING_SUFFIX}"
            self.root.mkdir(parents=True, exist_ok=True)
            try:
                _link_or_copy(file, temporary)
                sha256 = self.put(temporary)
            finally:
                temporary.unlink(missing_ok=True)
        return sha256

    def lies_at(self, path: Path, sha256: str, *, linked: bool = True) -> bool:
        """Whether `path` holds an object's content. A large file that is no link to it is not read to find out."""
        try:
            there, kept = path.stat(), self.path(sha256).stat()
            if linked and kept.st_size >= LINK_FROM_BYTES and there.st_dev == kept.st_dev:
                return there.st_ino == kept.st_ino and self.has(sha256)
            return there.st_size == kept.st_size and self.cache.digest(path) == sha256
        except OSError:
            return False

    def place(self, sha256: str, goal: Path, *, linked: bool = True) -> None:
        """Make `goal` a link to, or a copy of, an object; whatever was there is replaced in one step.

        Unless `linked`, it is always a copy, which shares the disk's blocks where the filesystem knows how to.
        Raises StoreError where the object is missing or damaged.
        """
        if not self.has(sha256):
            raise StoreError(f"the object {sha256} is missing", why=f"{goal} is made from it", do="doit")
        source = self.path(sha256)
        goal.parent.mkdir(parents=True, exist_ok=True)
        temporary = goal.with_name(f".{goal.name}.{os.urandom(6).hex()}{STAGING_SUFFIX}")
        try:
            _link_or_copy(source, temporary) if linked else _copy(source, temporary)
            temporary.replace(goal)
            # Linking and renaming change ctime, which the object shares; its content was compared just before.
            self.cache.remember(goal, sha256)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync_path(goal.parent)


def _link_or_copy(source: Path, goal: Path) -> None:
    if source.stat().st_size >= LINK_FROM_BYTES:
        try:
            os.link(source, goal)
            return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                raise
    _copy(source, goal)


def _copy(source: Path, goal: Path) -> None:
    if not _copied_by_the_system(source, goal):
        shutil.copyfile(source, goal)
    goal.chmod(0o644)
    fsync_path(goal)


def _copied_by_the_system(source: Path, goal: Path) -> bool:
    try:
        with source.open("rb") as read, goal.open("wb") as written:
            left = os.fstat(read.fileno()).st_size
            while left and (done := os.copy_file_range(read.fileno(), written.fileno(), left)):
                left -= done
            return not left
    except (OSError, AttributeError):  # not every system or filesystem can
        return False
