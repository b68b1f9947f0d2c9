"""What a file's content was the last time anybody looked: (device, inode, size, mtime, ctime) → SHA-256.

One small SQLite file per store serves every task and every process, so that a run costs one `stat` per file, and a file
that changed is read once, whoever depends on it. Rows are by inode, not by path: all hard links of an object share one.

Racy rule, as in git's index (https://git-scm.com/docs/racy-git): a row is only believed later if the file's times were
clearly in the past when it was read; a file written in the same instant could change again and keep its times.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlmbuild.io.digest import sha256_file

_GRANULARITY_NS = 20_000_000
"""Twice the coarsest time stamp of a local Linux filesystem (one 100 Hz tick)."""


class StatCache:
    """Digests of files, remembered by their stat. Safe to share between threads and processes.

    `bytes_hashed` counts what this object had to read; it stays 0 when nothing changed.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self.bytes_hashed = 0

    def digest(self, path: Path) -> str:
        """SHA-256 of the file's content. Raises OSError as `open` does."""
        for _ in range(3):
            before = path.stat()
            known = self._get(before)
            if known:
                return known
            looked_at = time.time_ns()
            sha256 = sha256_file(path)
            self.bytes_hashed += before.st_size
            if _signature(path.stat()) == _signature(before):
                if max(before.st_mtime_ns, before.st_ctime_ns) + _GRANULARITY_NS < looked_at:
                    self._put(before, sha256)
                return sha256
        return sha256_file(path)

    def remember(self, path: Path, sha256: str) -> None:
        """Note the digest of a file that this process has just written or linked, and that nobody else writes to."""
        self._put(path.stat(), sha256)

    def _execute(self, sql: str, values: Sequence[int | str]) -> list[Any]:
        # A cache that is damaged is thrown away; one that cannot be used (disk full, folder read-only, locked for
        # very long) is done without. Either costs some hashing, no more: never a failed build.
        with self._lock:
            for _ in range(2):
                try:
                    if self._db is None:
                        self._db = self._open()
                    return self._db.execute(sql, values).fetchall()
                except (sqlite3.OperationalError, OSError):
                    return []
                except sqlite3.DatabaseError:
                    self._throw_away()
        return []

    def _throw_away(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                self._path.with_name(self._path.name + suffix).unlink()

    def _open(self) -> sqlite3.Connection:
        # Where nothing has been built yet there is no folder, and whoever only looks makes none.
        db = sqlite3.connect(self._path, timeout=30, check_same_thread=False, isolation_level=None)
        try:
            db.execute("pragma journal_mode = wal")
            db.execute("pragma synchronous = off")  # losing rows is harmless
            db.execute(
                "create table if not exists stat (dev integer, ino integer, size integer, mtime integer, ctime integer,"
                " sha256 text not null, primary key (dev, ino)) without rowid"
            )
        except sqlite3.DatabaseError:
            db.close()
            raise
        return db

    def _get(self, stat: os.stat_result) -> str | None:
        found = self._execute(
            "select sha256 from stat where dev = ? and ino = ? and size = ? and mtime = ? and ctime = ?",
            _signature(stat),
        )
        return str(found[0][0]) if found else None

    def _put(self, stat: os.stat_result, sha256: str) -> None:
        self._execute("insert or replace into stat values (?, ?, ?, ?, ?, ?)", (*_signature(stat), sha256))


def _signature(stat: os.stat_result) -> tuple[int, ...]:
    # SQLite integers have 64 bits and a sign. Device and inode numbers may use them all, times after 2262 need more.
    return tuple(map(_signed, (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)))


def _signed(number: int) -> int:
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)
