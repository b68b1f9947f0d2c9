"""What a file's content was the last time anybody looked: (device, inode, size, mtime, ctime) → SHA-256.

One small SQLite file per store serves every task and every process, so that a run costs one `stat` per file, and a file
that changed is read once, whoever depends on it. Rows are by inode, not by path: all hard links of an object share one.

Racy rule, as in git's index (https://git-scm.com/docs/racy-git): a row is only believed later if the file's times were
clearly in the past when it was read; a file written in the same instant could change again and keep its times.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from pathlib import Path

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

    def known(self, path: Path) -> str | None:
        """The digest if it is known without reading the file."""
        return self._get(path.stat())

    def _connection(self) -> sqlite3.Connection:
        if self._db is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._db = self._open()
            except sqlite3.DatabaseError:  # a damaged cache costs one pass of hashing, no more
                self._path.unlink(missing_ok=True)
                self._db = self._open()
        return self._db

    def _open(self) -> sqlite3.Connection:
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
        with self._lock:
            row = self._connection().execute(
                "select sha256 from stat where dev = ? and ino = ? and size = ? and mtime = ? and ctime = ?",
                _signature(stat),
            )
            found = row.fetchone()
        return str(found[0]) if found else None

    def _put(self, stat: os.stat_result, sha256: str) -> None:
        with self._lock:
            self._connection().execute(
                "insert or replace into stat values (?, ?, ?, ?, ?, ?)", (*_signature(stat), sha256)
            )


def _signature(stat: os.stat_result) -> tuple[int, int, int, int, int]:
    # SQLite integers have a sign; device and inode numbers may use all 64 bits.
    return (_signed(stat.st_dev), _signed(stat.st_ino), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def _signed(number: int) -> int:
    return number - (1 << 64) if number >= 1 << 63 else number
