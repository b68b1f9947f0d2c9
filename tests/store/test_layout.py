from __future__ import annotations

from pathlib import Path

import pytest

from dlmbuild.errors import StoreError
from dlmbuild.store.layout import Home

ULID = "01HZX3Q5J8K9M2N4P6R8T0V2W4"


def test_home_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DLM_HOME", str(tmp_path))
    assert Home.default().root == tmp_path
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("DLM_HOME", "~/models")
    assert Home.default().root == Path("/home/somebody/models")
    monkeypatch.setenv("DLM_HOME", "")
    assert Home.default().root == Path("/home/somebody/.dlm")


def test_home_stays_the_same_when_the_folder_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLM_HOME", "here")
    assert Home.default().root == tmp_path / "here"


def test_a_store_has_the_layout_of_the_public_format() -> None:
    store = Home(Path("/h")).store(ULID)
    below = {
        "dlm.lock": store.dlm_lock,
        "manifest.json": store.manifest,
        "document.json": store.document,
        "plan.json": store.plan,
        "dataset.json": store.dataset,
        "adapter": store.adapter,
        "logs": store.logs,
        "cache": store.cache,
        "exports/Q4_K_M": store.export("Q4_K_M"),
        "dataset/tone/dataset.json": store.named("tone").dataset,
        "adapter/tone": store.named("tone").adapter,
        "exports/tone/Q4_K_M": store.named("tone").export("Q4_K_M"),
        ".lock": store.lock_file,
    }
    assert {name: path.relative_to(f"/h/store/{ULID}").as_posix() for name, path in below.items()} == {
        name: name for name in below
    }


def test_a_base_has_one_folder() -> None:
    base = Home(Path("/h")).base("smollm2-135m")
    assert base.gguf("Q8_0") == Path("/h/bases/smollm2-135m/base.Q8_0.gguf")
    assert base.facts.parent == base.lock_file.parent == base.root


@pytest.mark.parametrize("dlm_id", ["", "..", "../../etc", ULID.lower(), ULID + "/..", ULID + "\n"])
def test_an_id_never_leads_out_of_the_store(dlm_id: str) -> None:
    with pytest.raises(StoreError, match="not a document id"):
        Home(Path("/h")).store(dlm_id)
