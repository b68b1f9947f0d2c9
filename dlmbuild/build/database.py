"""What doit remembers between runs: saved values and ignore flags."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Database:
    """doit's backend: values and ignore flags in one small SQLite file, saved when a task ends, not when doit does.

    A kill then forgets nothing, and losing the file loses nothing that a record does not know.
    """

    def __init__(self, name: str, codec: Any, *, module_name: str | None = None) -> None:
        self.name = name
        self._codec = codec
        self._rows: dict[str, dict[str, Any]] = {}
        self._db = self._open()

    def _open(self) -> Any:
        import sqlite3

        try:
            return self._connect(sqlite3)
        except sqlite3.DatabaseError:
            Path(self.name).unlink(missing_ok=True)  # a cache of the records: start afresh
            return self._connect(sqlite3)

    def _connect(self, sqlite3: Any) -> Any:
        db = sqlite3.connect(self.name, timeout=30, check_same_thread=False, isolation_level=None)
        db.execute("create table if not exists task (name text primary key, row text not null)")
        return db

    def _row(self, task: str) -> dict[str, Any]:
        if task not in self._rows:
            found = self._db.execute("select row from task where name = ?", (task,)).fetchone()
            try:
                self._rows[task] = self._codec.decode(found[0]) if found else {}
            except ValueError:
                self._rows[task] = {}
        return self._rows[task]

    def get(self, task: str, item: str) -> Any:
        # doit's own items end in a colon; the others are file names, whose state is never ours to keep: "it was there".
        return self._row(task).get(item) if item.endswith(":") else True

    def set(self, task: str, item: str, value: Any) -> None:
        self._row(task)[item] = value
        if item in ("deps:", "ignore:"):  # the last things doit sets when a task ended well, or was ignored
            self._save(task)

    def _save(self, task: str) -> None:
        self._db.execute("insert or replace into task values (?, ?)", (task, self._codec.encode(self._row(task))))

    def in_(self, task: str) -> bool:
        return bool(self._row(task))

    def remove(self, task: str) -> None:
        self._rows[task] = {}
        self._db.execute("delete from task where name = ?", (task,))

    def remove_all(self) -> None:
        self._rows.clear()
        self._db.execute("delete from task")

    def dump(self) -> None:
        self._db.close()
