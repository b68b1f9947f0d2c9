"""`doit dumpdb`: doit's own reads the databases of Python's dbm only; ours is SQLite."""

from __future__ import annotations

import json
import pprint
from contextlib import closing
from pathlib import Path
from typing import Any

from doit import cmd_dumpdb
from doit.exceptions import InvalidCommand

from dlmbuild.cli.printing import Printing


class DumpDB(Printing, cmd_dumpdb.DumpDB):  # type: ignore[misc]
    """doit's command, which also knows build/database.py."""

    def execute(self, opt_values: Any, pos_args: list[str]) -> Any:
        path = Path(opt_values["dep_file"])
        if not path.is_file():
            if not path.with_name(path.name + ".dat").exists():  # one of dbm's kinds has its name longer
                raise InvalidCommand(f"there is no {path} here: nothing has been built yet")
            return super().execute(opt_values, pos_args)
        with path.open("rb") as file:
            if file.read(16) != b"SQLite format 3\0":  # https://www.sqlite.org/fileformat.html, "The Database Header"
                return super().execute(opt_values, pos_args)
        for task, row in _rows(path):
            print(f"{task} -> {pprint.pformat(row, indent=4, width=100)}")
        return 0


def _rows(path: Path) -> list[tuple[str, Any]]:
    import sqlite3

    try:
        with closing(sqlite3.connect(path)) as db:
            found = db.execute("select name, row from task order by name").fetchall()
        return [(name, json.loads(row)) for name, row in found]
    except (sqlite3.DatabaseError, ValueError) as error:
        raise InvalidCommand(f"{path} cannot be read: {error}; it only saves time and may be deleted") from None
