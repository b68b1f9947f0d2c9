"""What doit remembers between runs: saved values and ignore flags."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any

from dlmbuild.build.checker import is_ours

_SECONDS = 5.0
"""How long another process may keep the file locked."""


class Database:
    """doit's backend: values and ignore flags in one small SQLite file, saved when a task ends, not when doit does.

    A kill then forgets nothing, and losing the file loses nothing that a record does not know. Where the file cannot be
    used, for whatever reason, one line says so and the run goes on without; only an ignore flag that cannot be kept or
    taken back is an error, since nothing else knows it.
    """

    def __init__(self, name: str, codec: Any, *, module_name: str | None = None) -> None:
        self.name = name
        self._codec = codec
        self._rows: dict[str, dict[str, Any]] = {}
        self._written: dict[str, str] = {}
        """Each row as it lies in the file, read at once: a query per task would cost a large project more."""
        self._trouble = ""
        """Why the file is not used."""
        self._db: Any = None
        self._open()

    def _open(self) -> None:
        import sqlite3

        try:
            self._connect(sqlite3)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                self._do_without(error)
                return
            try:
                self._db.close()
                for name in (self.name, self.name + "-journal"):
                    Path(name).unlink(missing_ok=True)  # a cache of the records: start afresh
                self._connect(sqlite3)
            except (sqlite3.Error, OSError) as still:
                self._do_without(still)

    def _connect(self, sqlite3: Any) -> None:
        self._db = sqlite3.connect(self.name, timeout=_SECONDS, check_same_thread=False, isolation_level=None)
        self._db.execute("create table if not exists task (name text primary key, row text not null)")
        self._written = dict(self._db.execute("select name, row from task"))

    def _do_without(self, error: Exception) -> None:
        if self._trouble:
            return
        self._trouble = str(error)
        sys.stderr.write(
            f"{self.name} cannot be used ({error}): this run goes on without it, "
            "and without what `doit ignore` was told\n"
        )

    def _execute(self, words: str, *values: Any) -> list[Any]:
        """The rows that SQLite finds; none where the file is not used."""
        import sqlite3

        if self._trouble:
            return []
        try:
            return list(self._db.execute(words, values))
        except sqlite3.Error as error:
            self._do_without(error)
            return []

    def _row(self, task: str) -> dict[str, Any]:
        if task not in self._rows:
            row: Any = None
            with contextlib.suppress(ValueError, TypeError, KeyError):
                row = self._codec.decode(self._written[task])
            self._rows[task] = row if isinstance(row, dict) else {}
        return self._rows[task]

    def get(self, task: str, item: str) -> Any:
        # doit's own items end in a colon; the others are file names, whose state is never ours to keep: "it was there".
        return True if is_ours(task) and not item.endswith(":") else self._row(task).get(item)

    def set(self, task: str, item: str, value: Any) -> None:
        self._row(task)[item] = value
        if item in ("deps:", "ignore:"):  # the last things doit sets when a task ended well, or was ignored
            self._write(task)
        if item == "ignore:":
            self._insist(f"that {task} is to be ignored cannot be kept")

    def _write(self, task: str) -> None:
        if self._written.get(task) == self._codec.encode(self._row(task)):
            return  # groups end well in every run, and have nothing new to say
        # Somebody may have told doit in the meantime to ignore the task.
        now = self._execute("select row from task where name = ?", task)
        if now and now[0][0] != self._written.get(task):
            with contextlib.suppress(ValueError, TypeError, KeyError):
                self._row(task)["ignore:"] = self._codec.decode(now[0][0])["ignore:"]
        self._written[task] = self._codec.encode(self._row(task))
        self._execute("insert or replace into task values (?, ?)", task, self._written[task])

    def in_(self, task: str) -> bool:
        return bool(self._row(task))

    def remove(self, task: str) -> None:
        ignored = "ignore:" in self._row(task)
        self._rows[task] = {}
        self._written.pop(task, None)
        self._execute("delete from task where name = ?", task)
        if ignored:
            self._insist(f"that {task} is to be ignored cannot be taken back")

    def remove_all(self) -> None:
        self._rows.clear()
        self._written.clear()
        self._execute("delete from task")
        self._insist("nothing can be forgotten")

    def _insist(self, otherwise: str) -> None:
        if self._trouble:
            raise SystemExit(f"{self.name}: {otherwise}: {self._trouble}\n  → make room for that file, then try again")

    def dump(self) -> None:
        import sqlite3

        if self._db is not None:
            with contextlib.suppress(sqlite3.Error):
                self._db.close()
