"""`dlm metrics`: what trainings came to, however they ended."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from tests.tiny import make_tiny_base
from tests.workshop import Workshop

pytestmark = pytest.mark.model


def shown(shop: Workshop) -> list[dict[str, object]]:
    runs: list[dict[str, object]] = json.loads(shop.dlm("metrics", "show", "tower", "--json").out)
    return runs


def test_a_training_is_told_alike_to_people_programs_and_sql(built: Workshop) -> None:
    (run,) = shown(built)
    assert (run["run"], run["phase"], run["status"], run["adapter_version"]) == (1, "train", "ok", "v0001")
    steps = run["steps"]
    assert isinstance(steps, list) and len(steps) == run["of"]
    assert {"step", "loss", "learning_rate", "grad_norm", "epoch", "tokens_per_s"} <= steps[0].keys()
    table = list(csv.DictReader(io.StringIO(built.dlm("metrics", "show", "tower", "--csv").out)))
    assert [float(row["value"]) for row in table if row["name"] == "loss"] == [step["loss"] for step in steps]
    for _ in range(2):
        with closing(sqlite3.connect(built.store / "metrics.sqlite")) as database:
            rows = database.execute("SELECT value FROM steps WHERE run = 1 AND name = 'loss' ORDER BY step").fetchall()
            assert database.execute("SELECT status, adapter_version FROM runs").fetchall() == [("ok", "v0001")]
        assert [value for (value,) in rows] == [step["loss"] for step in steps]
        (built.store / "metrics.sqlite").write_bytes(b"nothing that SQLite could read")  # it is made anew
        text = built.dlm("metrics", "show", "tower").out
    assert f"{len(steps)}/{len(steps)}" in text and "v0001" in text
    assert f"run 1  loss  {steps[0]['loss']:.4f} > {steps[-1]['loss']:.4f}" in text
    assert built.doit().steps == []


def test_a_killed_training_is_called_so_and_goes_on_as_the_same_run(built: Workshop) -> None:
    built.edit("tower", "dlm_version: 15", "dlm_version: 15\ntraining: {num_epochs: 300}")
    build = built.start_silently("doit", "train", DLM_CHECKPOINT_SECONDS="0.1")
    kept = built.store / "cache" / "unfinished"
    while not list(kept.glob("train-*/checkpoint-*")) and build.poll() is None:
        time.sleep(0.05)
    assert shown(built)[-1]["status"] == "running"
    watching = built.start("dlm", "metrics", "watch", "tower")
    assert watching.stdout is not None
    assert watching.stdout.readline().startswith("run 2: train, ")
    assert watching.stdout.readline().startswith("step 1/")
    build.kill()
    build.wait()
    out, _ = watching.communicate(timeout=60)
    assert (watching.returncode, out.splitlines()[-1]) == (1, "killed")
    killed = shown(built)[-1]
    assert (killed["run"], killed["status"], killed["adapter_version"]) == (2, "killed", None)
    built.doit("train")
    first, second = shown(built)
    assert (first["status"], second["status"], second["adapter_version"]) == ("ok", "ok", "v0002")
    steps = second["steps"]
    assert isinstance(steps, list)
    assert [step["step"] for step in steps] == list(range(1, len(steps) + 1)) and len(steps) == second["of"]
    ran = built.dlm("metrics", "watch", "tower", code=2)
    assert "tower is not being trained" in ran.err


def log(shop: Workshop, name: str, *lines: object) -> Path:
    path = shop.store / "logs" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_failures_and_damaged_logs_are_told_as_far_as_they_go(workshop: Workshop) -> None:
    workshop.document("tower")
    make_tiny_base(workshop.folder / "base")
    assert "was not trained yet" in workshop.dlm("metrics", "show", "tower").out
    workshop.doit("check")
    begin = {"event": "begin", "from": 0, "of": 9, "seed": 1, "started": "2026-01-01T00:00:00Z"}
    bad = {"step": 2, "loss": float("nan"), "name": "x"}
    failed = {"event": "failed", "error": "the loss is nan at step 2"}
    log(workshop, "train-000001-20260101T000000Z.jsonl", begin, {"step": 1, "loss": 2.5}, bad, failed)
    log(workshop, "train-000001-20260102T000000Z.jsonl", {"step": 3}, '{"step": 1', "[]", "\0", begin, {"step": 1})
    log(workshop, "train.jsonl", begin)
    first, second = shown(workshop)
    assert (first["status"], first["error"], first["steps"]) == (
        "failed",
        "the loss is nan at step 2",
        [{"step": 1, "loss": 2.5}, {"step": 2, "loss": None}],
    )
    assert (second["status"], second["steps"]) == ("killed", [{"step": 1}])
    assert "the loss is nan at step 2" in workshop.dlm("metrics", "show", "tower", PYTHONIOENCODING="ascii").out
    assert "has no training 3" in workshop.dlm("metrics", "show", "tower", "--run", "3", code=2).err
    with closing(sqlite3.connect(workshop.store / "metrics.sqlite")) as database:
        assert database.execute("SELECT status FROM runs ORDER BY run").fetchall() == [("failed",), ("killed",)]


def test_wrong_words_are_refused(built: Workshop) -> None:
    assert "not allowed with" in built.dlm("metrics", "show", "tower", "--csv", "--json", code=2).err
    assert "watch follows" in built.dlm("metrics", "watch", "tower", "--csv", code=2).err
    assert "no document 'town'" in built.dlm("metrics", "show", "town", code=2).err
