from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dlmbuild.io.digest import sha256_json
from dlmbuild.store.records import Ingredients, Record, Records

MADE_FROM = Ingredients("dataset/1", {"document": "a" * 64}, {"sequence_len": 64, "prompt": None})
RECORD = Record(MADE_FROM, {"rows.jsonl": "b" * 64}, {"rows": 3})


@pytest.fixture
def records(tmp_path: Path) -> Records:
    records = Records(tmp_path)
    records.save(RECORD)
    return records


def rewrite(records: Records, change: dict[str, Any]) -> None:
    """Change a saved record as somebody with an editor and this program's source could."""
    path = records.path(MADE_FROM.key)
    data = {**json.loads(path.read_bytes()), **change}
    data["check"] = sha256_json([MADE_FROM.key, data["outputs"], data["notes"]])
    path.write_text(json.dumps(data))


def test_comes_back_as_it_was(records: Records) -> None:
    assert records.load(MADE_FROM.key) == RECORD


def test_saving_twice_gives_the_same_bytes(records: Records) -> None:
    path = records.path(MADE_FROM.key)
    before = path.read_bytes()
    records.save(RECORD)
    assert path.read_bytes() == before
    assert path.parent.name == MADE_FROM.key[:2]


@pytest.mark.parametrize(
    "other",
    [
        Ingredients("dataset/2", MADE_FROM.inputs, MADE_FROM.params),
        Ingredients(MADE_FROM.rule, {"document": "c" * 64}, MADE_FROM.params),
        Ingredients(MADE_FROM.rule, {"Document": "a" * 64}, MADE_FROM.params),
        Ingredients(MADE_FROM.rule, MADE_FROM.inputs, {"sequence_len": 65, "prompt": None}),
        Ingredients(MADE_FROM.rule, MADE_FROM.inputs, {"sequence_len": 64}),
    ],
)
def test_everything_that_decides_the_result_is_in_the_key(records: Records, other: Ingredients) -> None:
    assert other.key != MADE_FROM.key
    assert records.load(other.key) is None


def test_the_order_of_the_ingredients_is_not(records: Records) -> None:
    assert Ingredients("dataset/1", MADE_FROM.inputs, {"prompt": None, "sequence_len": 64}).key == MADE_FROM.key


@pytest.mark.parametrize(
    ("found", "put"),
    [('"a', '"c'), ('"b', '"c'), ("64", "65"), ("3", "4"), ("dataset", "datases"), ('"outputs"', '"output"')],
)
def test_a_damaged_record_is_not_believed(records: Records, found: str, put: str) -> None:
    path = records.path(MADE_FROM.key)
    text = path.read_text()
    assert found in text
    path.write_text(text.replace(found, put, 1))
    assert records.load(MADE_FROM.key) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b"\xff\xfe",
        b"[" * 100000,
        b'{"rule":"x","inputs":1,"params":{},"outputs":{},"notes":{},"check":""}',
    ],
)
def test_a_file_that_is_no_record(records: Records, data: bytes) -> None:
    records.path(MADE_FROM.key).write_bytes(data)
    assert records.load(MADE_FROM.key) is None


def test_a_record_under_another_key_is_not_believed(records: Records) -> None:
    key = "f" * 64
    records.path(key).parent.mkdir()
    records.path(MADE_FROM.key).rename(records.path(key))
    assert records.load(key) is None


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/b", "..", ".", "", "a\0b"])
def test_an_output_never_leads_out_of_the_layout(records: Records, name: str) -> None:
    rewrite(records, {"outputs": {"rows.jsonl": "b" * 64}})
    assert records.load(MADE_FROM.key) is not None
    rewrite(records, {"outputs": {name: "b" * 64}})
    assert records.load(MADE_FROM.key) is None
