"""After any history of edits, reverts, damage and kills, a build comes to what it would come to from scratch."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.history import ID, History

STEPS = int(os.environ.get("DLM_HISTORY_STEPS", "40"))
"""Things that happen in one history. `DLM_HISTORY_STEPS=500 pytest tests/test_history.py` for a long one."""

pytestmark = pytest.mark.model


@pytest.mark.parametrize("seed", [1, 2])
def test_every_build_comes_to_what_it_would_from_scratch(tmp_path: Path, seed: int) -> None:
    history = History(tmp_path, seed)
    happened = ["the first build"]
    assert history.build() == ""
    for _ in range(STEPS):
        happened.append(history.step())
        wrong = history.build()
        assert not wrong, "\n".join([*happened[-8:], wrong])
    again = history.shop.doit("export:Q4_K_M")
    assert again.steps == again.restored == []
    assert not list(history.shop.home.rglob("*.staging"))


def test_two_builds_at_once_do_the_work_once(tmp_path: Path) -> None:
    history = History(tmp_path, 3)
    builds = [history.start_build(seconds=0.3) for _ in range(2)]
    outs = [build.communicate()[0] for build in builds]
    assert [build.returncode for build in builds] == [0, 0]
    trained = [
        line for out in outs for line in out.splitlines() if line.startswith("✓ train:tower") and "restored" not in line
    ]
    assert len(trained) == 1
    assert any("waiting for" in out and "(process " in out for out in outs)
    assert history.state(history.shop) == history.from_scratch()


def test_parallel_tasks_come_to_the_same(tmp_path: Path) -> None:
    history = History(tmp_path, 4)
    history.shop.doit("-n", "2", "export:Q4_K_M")
    assert history.state(history.shop) == history.from_scratch()
    assert history.shop.doit("-n", "2", "export:Q4_K_M").steps == []


def test_gc_frees_what_nothing_needs_and_nothing_else(tmp_path: Path) -> None:
    history = History(tmp_path, 5)
    shop = history.shop
    for answer in ("in fog", "at noon", "never", "always", "twice"):
        history.inputs.answer = answer
        history.write(shop.folder, history.inputs)
        shop.doit("export:Q4_K_M", "export:Q8_0")
    (shop.home / "store" / ID / "cache" / ".0123456789ab.staging").mkdir()
    (at_work := shop.home / "converters" / ".abcdef012345.staging").mkdir(parents=True)  # no lock is held there
    (shop.home / "uptodate").mkdir(exist_ok=True)
    (shop.home / "states" / "ab").mkdir(parents=True, exist_ok=True)
    kept, gone = [], []
    for folder, days in ((shop.home / "uptodate", 30), (shop.home / "states" / "ab", 90)):
        for found, age in ((kept, days - 1), (gone, days + 1)):
            path = folder / f"abcd{age:04}"
            path.touch()
            os.utime(path, (0, time.time() - age * 86_400))
            found.append(path)
    before = {path for path in shop.home.rglob("*") if path.is_file()}
    assert "could go" in shop.dlm("gc").out
    assert {path for path in shop.home.rglob("*") if path.is_file()} == before
    assert "deleted" in shop.dlm("gc", "--delete").out
    assert "0 things could go" in shop.dlm("gc").out
    assert list(shop.home.rglob("*.staging")) == [at_work]
    os.utime(at_work, (0, time.time() - 2 * 86_400))
    assert "1 things deleted" in shop.dlm("gc", "--delete").out and not at_work.exists()
    assert [path for path in (*kept, *gone) if path.exists()] == kept
    versions = shop.home / "store" / ID / "adapter" / "versions"
    assert sorted(path.name for path in versions.iterdir()) == ["v0003", "v0004", "v0005"]
    nothing = shop.doit("export:Q4_K_M", "export:Q8_0")
    assert nothing.steps == nothing.restored == []
    # What stays can be gone back to; what went is built again, and right.
    history.inputs.answer = "never"
    history.write(shop.folder, history.inputs)
    assert "train:tower" in shop.doit("train").restored
    history.inputs.answer = "in fog"
    history.write(shop.folder, history.inputs)
    assert history.build() == ""


def test_gc_after_clean_frees_the_parts_of_the_exports(tmp_path: Path) -> None:
    history = History(tmp_path, 6)
    shop = history.shop
    shop.doit("export:Q4_K_M", "export:Q8_0")
    shop.doit("clean")
    shop.doit("export:Q4_K_M")
    shop.dlm("gc", "--delete")
    cache = shop.home / "store" / ID / "cache"
    assert (cache / "model.Q4_K_M.gguf").exists() and not (cache / "model.Q8_0.gguf").exists()
    assert not list(shop.home.glob("bases/*/base.Q8_0.gguf"))
    assert shop.doit("export:Q4_K_M").steps == []
    assert history.build() == ""


def test_gc_and_purge_delete_nothing_where_files_do_not_tell_what_is_in_use(tmp_path: Path) -> None:
    history = History(tmp_path, 8)
    shop = history.shop
    shop.doit("export:Q4_K_M")
    files = sorted(path for path in shop.home.rglob("*") if path.is_file())
    (base,) = (shop.home / "bases").iterdir()
    for folder in (base, shop.store):
        built = folder / "built.json"
        for damage in (built.read_bytes()[:40], b"[" * 200_000, b"[1]"):
            built.write_bytes(damage)
            told = shop.dlm("gc", "--delete", code=1).err
            assert f"{built}: it cannot be told what is in use here: the file is damaged" in told
        assert shop.doit("export:Q4_K_M").steps == []
        assert shop.dlm("gc", "--delete").err == ""
    assert set(files) <= {path for path in shop.home.rglob("*") if path.is_file()}
    document = shop.store / "document.json"
    document.chmod(0o644)
    document.write_text(json.dumps({"dlm_id": ID}))
    told = shop.dlm("purge", "tower", code=1).err
    assert f"{document}: the file is damaged: it lacks what the document says" in told
    assert shop.follow(told).code == 0 and "nothing is here" in shop.dlm("purge", "tower").out


def test_show_tells_what_was_built_and_what_it_takes(tmp_path: Path) -> None:
    history = History(tmp_path, 7)
    history.shop.doit("export:Q4_K_M")
    shown = json.loads(history.shop.dlm("show", "--size", "--json").out)["tower"]
    assert (shown["adapter_version"], shown["exports"], shown["trainings"]) == ("v0001", ["Q4_K_M"], 1)
    assert shown["bytes"]["adapters"] > 0
    assert "adapter version:  v0001" in history.shop.dlm("show", "tower").out


def test_gc_minds_neither_a_persons_copy_of_a_version_nor_one_without_weights(tmp_path: Path) -> None:
    shop = History(tmp_path, 6).shop
    shop.doit("train")
    versions = shop.store / "adapter" / "versions"
    (versions / "v0001.bak").mkdir()
    assert "could go" in shop.dlm("gc").out
    (versions / "v0001" / "adapter_model.safetensors").unlink()
    assert "could go" in shop.dlm("gc").out and (versions / "v0001.bak").is_dir()
