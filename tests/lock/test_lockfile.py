from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from dlmbuild.errors import LockError
from dlmbuild.lock.lockfile import (
    read_project_lock,
    read_store_lock,
    training_lock,
    write_project_lock,
    write_store_lock,
)

ID = "01HZX3Q5J8K9M2N4P6R8T0V2W4"
BASE = {"name": "org/base", "revision": "abc", "source": "hub", "files": {"b.json": "b" * 64, "a.json": "a" * 64}}
MIT = {"spdx": "MIT", "url": None}


def lock(base: Any = BASE, license: Any = MIT, **notes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "pins": {"torch": "2.9.1", "peft": "0.21.0"},
        "machine": {"tier": "cpu-avx2"},
        "determinism": {"class": "strong", "flags": {"use_deterministic_algorithms": True}},
        "recipe": {"num_epochs": 4, "learning_rate": 2e-3},
    }
    plan = {"seed": 7, "device": "cpu", "target_modules": ["q_proj"], "nothing": None}
    return training_lock(base, plan, {**made, **notes}, license)


GOLDEN = f"""
lock_version = 1

[base]
name = "org/base"
revision = "abc"
source = "hub"

[base.files]
"a.json" = "{"a" * 64}"
"b.json" = "{"b" * 64}"

[pins]
peft = "0.21.0"
torch = "2.9.1"

[hardware]
tier = "cpu-avx2"

[determinism]
class = "strong"

[determinism.flags]
use_deterministic_algorithms = true

[recipe]
learning_rate = 0.002
num_epochs = 4

[plan]
device = "cpu"
seed = 7
target_modules = [
    "q_proj",
]

[license]
spdx = "MIT"
"""


def test_golden(tmp_path: Path) -> None:
    write_store_lock(tmp_path / "dlm.lock", lock())
    comment, text = (tmp_path / "dlm.lock").read_text().split("\n", 1)
    assert comment.startswith("# ")
    assert text == GOLDEN


def test_the_order_in_which_things_are_found_leaves_no_trace(tmp_path: Path) -> None:
    turned = {**BASE, "files": dict(reversed(BASE["files"].items()))}  # type: ignore[attr-defined]
    write_store_lock(tmp_path / "a", lock())
    write_store_lock(tmp_path / "b", lock(base=turned, pins={"peft": "0.21.0", "torch": "2.9.1"}))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_stores_lock_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "dlm.lock"
    assert read_store_lock(path) is None
    write_store_lock(path, lock())
    assert read_store_lock(path) == {"lock_version": 1, **lock()}


@pytest.mark.parametrize("data", [b"", b"lock_version = ", b"\xff", b"lock_version = 2", b"lock_version = '1'"])
def test_a_stores_lock_that_cannot_be_read_is_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "dlm.lock").write_bytes(data)
    assert read_store_lock(tmp_path / "dlm.lock") is None


def test_a_projects_lock_has_a_table_for_each_document(tmp_path: Path) -> None:
    path = tmp_path / "dlm.lock"
    assert read_project_lock(path) == {}
    other = lock(pins={}, license=None)
    write_project_lock(path, {ID: lock(), ID[:-1] + "5": other})
    assert read_project_lock(path) == {ID: lock(), ID[:-1] + "5": other}


@pytest.mark.parametrize(
    "data",
    [
        b"lock_version = ",
        b"\xff",
        b"",
        b"lock_version = 2\n[documents]\n",
        b"lock_version = 1\n",
        b"lock_version = 1\ndocuments = 3\n",
    ],
)
def test_a_projects_lock_that_cannot_be_read_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "dlm.lock"
    path.write_bytes(data)
    with pytest.raises(LockError) as caught:
        read_project_lock(path)
    assert caught.value.where is not None and caught.value.where.path == str(path)
    assert caught.value.do


@pytest.mark.parametrize(
    ("data", "what", "why", "do"),
    [
        (b"", "the lock is empty", "", "dlm lock"),
        (b"# only a comment\n", "the lock is empty", "", "dlm lock"),
        (b"[documents]\n", "the lock is damaged", "it says no lock_version", "dlm lock"),
        (b"lock_version = '1'\n[documents]\n", "the lock is damaged", "it says no lock_version", "dlm lock"),
        (b"lock_version = 1\n", "the lock is damaged", "it has no table of documents", "dlm lock"),
        (b"lock_version = 2\n", "the lock has version 2, this program reads 1", "", "update dlmbuild"),
    ],
)
def test_what_is_wrong_with_a_lock_is_said(tmp_path: Path, data: bytes, what: str, why: str, do: str) -> None:
    (tmp_path / "dlm.lock").write_bytes(data)
    with pytest.raises(LockError) as caught:
        read_project_lock(tmp_path / "dlm.lock")
    assert caught.value.what == what and why in caught.value.why and do in caught.value.do
    assert ("update" in caught.value.do) == ("version 2" in what)


def test_odd_names_are_written_soundly(tmp_path: Path) -> None:
    odd = {**BASE, "name": 'quote " and \\ and\nline', "files": {"a b.json": "x", "ü": "y"}}
    write_store_lock(tmp_path / "dlm.lock", lock(base=odd))
    assert tomllib.loads((tmp_path / "dlm.lock").read_text())["base"] == odd
