from __future__ import annotations

from pathlib import Path

import pytest
from doit.dependency import JSONCodec

from dlmbuild.build.database import Database


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".doit.db"


def open_database(path: Path) -> Database:
    return Database(str(path), JSONCodec())


def end_well(database: Database, task: str) -> None:
    """What doit sets when a task has ended well."""
    database.set(task, "_values_:", {"n": 1})
    database.set(task, "checker:", "ExistenceChecker")
    database.set(task, "deps:", ("a", "b"))


def test_a_task_is_saved_when_it_ends_not_when_doit_does(path: Path) -> None:
    database = open_database(path)
    end_well(database, "train:a")
    database.set("train:b", "_values_:", {"n": 2})  # still running
    after_a_kill = open_database(path)
    assert after_a_kill.get("train:a", "_values_:") == {"n": 1}
    assert after_a_kill.get("train:a", "deps:") == ["a", "b"]
    assert after_a_kill.in_("train:a") and not after_a_kill.in_("train:b")


def test_files_are_always_as_before(path: Path) -> None:
    database = open_database(path)
    assert database.get("train:a", "/some/file") is True
    assert database.get("train:a", "deps:") is None


def test_ignored_tasks_are_remembered(path: Path) -> None:
    open_database(path).set("train:a", "ignore:", "1")
    assert open_database(path).get("train:a", "ignore:") == "1"


def test_removing(path: Path) -> None:
    database = open_database(path)
    for task in ("a", "b"):
        end_well(database, task)
    database.remove("a")
    assert not database.in_("a") and database.in_("b")
    assert not open_database(path).in_("a")
    database.remove_all()
    assert not database.in_("b")
    database.dump()
    assert not open_database(path).in_("b")


@pytest.mark.parametrize("data", [b"no database" * 100, b""])
def test_a_damaged_file_is_begun_afresh(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    end_well(open_database(path), "a")
    assert open_database(path).in_("a")


def test_a_row_that_cannot_be_read_is_forgotten(path: Path) -> None:
    database = open_database(path)
    end_well(database, "a")
    database._db.execute("update task set row = '{'")
    assert not open_database(path).in_("a")


def test_what_was_to_be_ignored_during_a_build_stays_so(tmp_path: Path) -> None:
    name = str(tmp_path / ".doit.db")
    build = Database(name, JSONCodec())
    ignoring = Database(name, JSONCodec())
    ignoring.set("train:a", "ignore:", "1")
    ignoring.dump()
    build.set("train:a", "deps:", [])
    build.dump()
    assert Database(name, JSONCodec()).get("train:a", "ignore:") == "1"
