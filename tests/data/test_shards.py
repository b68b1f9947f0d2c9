from __future__ import annotations

import json
from pathlib import Path

import pytest

from dlmbuild.data.rows import Row
from dlmbuild.data.shards import read_rows, write_dataset
from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.errors import DataError, StoreError

ROWS = [Row("prose", (5, 6, 7), 0), Row("instruction", (1, 5, 6, 2), 3), Row("instruction", (1, 2), 1)]


@pytest.fixture
def dataset(tokenizer: Tokenizer, tmp_path: Path) -> Path:
    """A dataset as it lies in the layout: dataset.json, and the shards in a folder beside it."""
    (tmp_path / "dataset").mkdir()
    write_dataset(iter(ROWS), tokenizer, 64, tmp_path / "dataset")
    return (tmp_path / "dataset" / "dataset.json").rename(tmp_path / "dataset.json")


def test_rows_come_back_as_they_were(dataset: Path) -> None:
    assert list(read_rows(dataset)) == ROWS


def test_the_counts_that_a_person_should_see(dataset: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    index = json.loads(dataset.read_bytes())
    assert index["counts"] == {
        "rows": {"prose": 1, "instruction": 2},
        "tokens": 9,
        "learned_tokens": 5,
        "longest_row": 4,
    }
    assert index["sequence_len"] == 64 and index["pad_id"] == tokenizer.pad_id
    assert write_dataset(ROWS, tokenizer, 64, tmp_path) == index["counts"]


def test_the_same_rows_give_the_same_bytes(tokenizer: Tokenizer, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_dataset(ROWS, tokenizer, 64, tmp_path / name)
    written = [{path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("a", "b")]
    assert written[0] == written[1] and len(written[0]) == 2


def test_nothing_to_train(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the document has nothing to train") as caught:
        write_dataset([], tokenizer, 64, tmp_path)
    assert "::instruction::" in caught.value.do
    assert list(tmp_path.glob("*.json*")) == []


@pytest.mark.parametrize("change", [b"", b"{}\n", b"more\n"])
def test_a_damaged_shard_is_refused(dataset: Path, change: bytes) -> None:
    [shard] = (dataset.parent / "dataset").iterdir()
    shard.write_bytes(shard.read_bytes() + change if change == b"more\n" else change)
    with pytest.raises(StoreError, match=f"shard {shard.name} is not what dataset.json says"):
        list(read_rows(dataset))
