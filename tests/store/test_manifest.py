from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dlmbuild.store.manifest import append_run, now, read_manifest

ULID = "01HZX3Q5J8K9M2N4P6R8T0V2W4"


def test_time_is_utc_in_seconds() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", now())


def test_runs_are_numbered_and_stamped(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    append_run(path, ULID, "training_runs", {"steps": 3})
    append_run(path, ULID, "training_runs", {"steps": 4})
    append_run(path, ULID, "exports", {"quant": "Q8_0"})
    manifest = read_manifest(path, ULID)
    assert [(run["run"], run["steps"]) for run in manifest["training_runs"]] == [(1, 3), (2, 4)]
    assert [run["run"] for run in manifest["exports"]] == [1]
    assert all("ended_at" in run for run in manifest["training_runs"])
    assert json.loads(path.read_bytes()) == manifest


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"schema_version":1}',
        f'{{"schema_version":2,"dlm_id":"{ULID}"}}',
        f'{{"schema_version":1,"dlm_id":"{ULID}","training_runs":[]}}',
        "[" * 100000,
        f'{{"schema_version":1,"dlm_id":"{ULID}","training_runs":7,"exports":[]}}',
    ],
)
def test_what_cannot_be_read_is_begun_afresh(tmp_path: Path, text: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(text)
    append_run(path, ULID, "exports", {"quant": "Q8_0"})
    assert [run["quant"] for run in read_manifest(path, ULID)["exports"]] == ["Q8_0"]


def test_another_documents_story_is_not_continued(tmp_path: Path) -> None:
    append_run(tmp_path / "m", ULID, "exports", {})
    assert read_manifest(tmp_path / "m", ULID[:-1] + "5")["exports"] == []
