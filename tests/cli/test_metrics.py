"""`dlm metrics`: what trainings came to, however they ended."""

from __future__ import annotations

import csv
import io
import json
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dlmbuild.cli import main
from tests.tiny import make_tiny_base
from tests.workshop import Workshop

pytestmark = pytest.mark.model


def shown(shop: Workshop, *run: str) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = json.loads(shop.dlm("metrics", "show", "tower", *run, "--json").out)
    return runs


def in_sql(shop: Workshop, question: str) -> list[Any]:
    with closing(sqlite3.connect(shop.store / "metrics.sqlite")) as database:
        return database.execute(question).fetchall()


def wait_for_checkpoint(shop: Workshop, build: subprocess.Popen[str]) -> None:
    kept = shop.store / "cache" / "unfinished"
    deadline = time.monotonic() + 120
    while not list(kept.glob("train-*/checkpoint-*/sealed.json")):
        assert build.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


def test_a_training_is_told_alike_to_people_programs_and_sql(built: Workshop) -> None:
    (run,) = shown(built)
    assert (run["run"], run["phase"], run["status"], run["adapter_version"]) == (1, "train", "ok", "v0001")
    assert run["started"] <= run["ended"] and run["seed"] == 42
    steps = run["steps"]
    assert len(steps) == run["of"]
    names = {"step", "loss", "learning_rate", "grad_norm", "epoch", "num_tokens", "tokens_per_s", "elapsed_s"}
    assert steps[0].keys() == names
    (told,) = json.loads((built.store / "manifest.json").read_bytes())["training_runs"]
    assert run["key"] == told["key"]
    assert steps[-1]["num_tokens"] == told["tokens"] * told["epochs"]
    table = list(csv.DictReader(io.StringIO(built.dlm("metrics", "show", "tower", "--csv").out)))
    assert [float(row["value"]) for row in table if row["name"] == "loss"] == [step["loss"] for step in steps]
    for _ in range(2):
        rows = in_sql(built, "SELECT value FROM steps WHERE run = 1 AND name = 'loss' ORDER BY step")
        assert in_sql(built, "SELECT status, adapter_version, key FROM runs") == [("ok", "v0001", run["key"])]
        assert [value for (value,) in rows] == [step["loss"] for step in steps]
        (built.store / "metrics.sqlite").write_bytes(b"nothing that SQLite could read")  # it is made anew
        text = built.dlm("metrics", "show", "tower").out
    assert f"{len(steps)}/{len(steps)}" in text and "v0001" in text
    assert f"run 1  loss  {steps[0]['loss']:.4f} > {steps[-1]['loss']:.4f}\n  █" in text
    assert built.doit().steps == []
    assert json.loads(built.dlm("show", "--json").out)["tower"]["last_run"] == "ok"

    built.document("chapel", base="smollm2-135m")
    built.dlm("gc", "--delete")
    (row,) = csv.DictReader(io.StringIO(built.dlm("metrics", "--csv").out))
    assert (row["document"], row["run"], row["status"], row["steps"]) == ("tower", "1", "ok", str(len(steps)))
    assert json.loads(built.dlm("metrics", "tower", "--json").out)[0]["last_loss"] == steps[-1]["loss"]
    listed = built.dlm("metrics").out
    assert "chapel was not trained yet" in listed and "loss  " not in listed.partition("\n\n")[2]
    assert next(line for line in text.splitlines() if "v0001" in line) in listed


def test_a_killed_training_is_called_so_and_goes_on_as_the_same_run(built: Workshop) -> None:
    many = "training: {num_epochs: 100, micro_batch_size: 1, grad_accum: 2}"
    built.edit("tower", "dlm_version: 15", f"dlm_version: 15\n{many}")
    build = built.start("doit", "train", err=subprocess.DEVNULL, DLM_CHECKPOINT_SECONDS="0")
    wait_for_checkpoint(built, build)
    assert shown(built)[-1]["status"] == "running"
    assert in_sql(built, "SELECT run FROM runs") == [(1,)]  # nothing in a file runs for ever
    watching = built.start("dlm", "metrics", "watch", "tower")
    live = built.start("dlm", "metrics", "watch", "tower", "--csv")
    left = built.start("dlm", "metrics", "watch", "tower", "--json")
    for one in (watching, live, left):
        assert one.stdout is not None
    header = live.stdout.readline()  # type: ignore[union-attr]
    assert json.loads(left.stdout.readline())["step"] == 1  # type: ignore[union-attr]
    left.send_signal(signal.SIGINT)
    assert left.wait(timeout=60) == 130
    assert watching.stdout.readline().startswith("run 2: train, ")  # type: ignore[union-attr]
    assert watching.stdout.readline().startswith("step 1/")  # type: ignore[union-attr]
    build.kill()
    build.wait()
    out, _ = watching.communicate(timeout=60)
    assert (watching.returncode, out.splitlines()[-1]) == (1, "killed")
    told = list(csv.DictReader(io.StringIO(header + live.stdout.read())))  # type: ignore[union-attr]
    assert told[0].keys() == {"run", "step", "name", "value"} and told[0]["step"] == "1"
    killed = shown(built)[-1]
    assert (killed["run"], killed["status"], killed["adapter_version"]) == (2, "killed", None)
    assert in_sql(built, "SELECT status, ended FROM runs WHERE run = 2") == [("killed", None)]

    log = next((built.store / "logs").glob("train-000002-*.jsonl"))
    with log.open("a") as file:
        file.write('{"step": 3, "lo')  # as a kill leaves it
    build = built.start("doit", "train", err=subprocess.DEVNULL, DLM_CHECKPOINT_SECONDS="0")
    while "resuming at step" not in (build.stdout.readline() if build.stdout else ""):
        assert build.poll() is None
    build.send_signal(signal.SIGINT)
    build.communicate(timeout=60)
    assert in_sql(built, "SELECT run, status, ended > started FROM runs")[1:] == [(2, "killed", 1)]
    built.doit("train")
    first, second = shown(built)
    assert (first["status"], second["status"], second["adapter_version"]) == ("ok", "ok", "v0002")
    steps = second["steps"]
    assert [step["step"] for step in steps] == list(range(1, len(steps) + 1)) and len(steps) == second["of"]
    tokens = [step["num_tokens"] for step in steps]
    (run,) = json.loads((built.store / "manifest.json").read_bytes())["training_runs"][1:]
    assert tokens == sorted(set(tokens)) and tokens[-1] == run["tokens"] * run["epochs"]
    assert {tokens[at + 2] - tokens[at] for at in range(len(tokens) - 2)} >= {run["tokens"]}
    ran = built.dlm("metrics", "watch", "tower", code=2)
    assert "tower is not being trained" in ran.err


def test_a_failed_training_is_told_with_its_words(workshop: Workshop) -> None:
    from safetensors.numpy import load_file, save_file

    make_tiny_base(workshop.folder / "base")
    weights = workshop.folder / "base" / "model.safetensors"
    tensors = load_file(weights)
    tensors["model.norm.weight"] *= 1e38  # finite, as a base has to be; what is computed with it is not
    save_file(tensors, weights, metadata={"format": "pt"})
    workshop.document("tower")
    assert "the loss is nan at step 1" in workshop.doit("train", code=1).err
    told = in_sql(workshop, "SELECT run, status, error, ended >= started, steps, adapter_version FROM runs")
    ((run, status, error, *others),) = told
    assert (run, status, others) == (1, "failed", [1, 0, None])
    assert error.startswith("the loss is nan at step 1: no weight has been changed yet")
    assert error in workshop.dlm("metrics", "show", "tower", "1").out
    assert json.loads(workshop.dlm("show", "--json").out)["tower"]["last_run"] == "failed"


def log(shop: Workshop, name: str, *lines: object) -> Path:
    path = shop.store / "logs" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


def test_failures_and_damaged_logs_are_told_as_far_as_they_go(workshop: Workshop) -> None:
    workshop.document("tower")
    make_tiny_base(workshop.folder / "base")
    assert "was not trained yet" in workshop.dlm("metrics", "show", "tower").out
    assert workshop.dlm("metrics", "show", "tower", "--csv").out == "run,step,name,value\n"
    workshop.doit("check")
    start = {"event": "start", "seed": 1, "started": "2026-01-01T00:00:00Z", "key": "k"}
    begin = {"event": "begin", "from": 0, "of": 9}
    bad = {"step": 2, "loss": float("nan"), "name": "x"}
    failed = {"event": "failed", "error": "the loss is nan at step 2"}
    log(workshop, "train-000001-20260101T000000Z.jsonl", start, begin, {"step": 1, "loss": 2.5}, bad, failed)
    steps = ({"step": 3}, '{"step": 1', "[]", "\0", start, begin, {"step": 1})
    log(workshop, "train-000001-20260102T000000Z.jsonl", *steps)
    log(workshop, "train.jsonl", start, begin)
    log(workshop, "train-000001-20260102-T.jsonl", start, begin)
    first, second = shown(workshop)
    assert (first["status"], first["error"], first["steps"]) == (
        "failed",
        "the loss is nan at step 2",
        [{"step": 1, "loss": 2.5}, {"step": 2, "loss": None}],
    )
    assert (second["status"], second["steps"]) == ("killed", [{"step": 1}])
    assert "the loss is nan at step 2" in workshop.dlm("metrics", "show", "tower", PYTHONIOENCODING="ascii").out
    for form in ((), ("--json",), ("--csv",)):
        assert "has no training 3" in workshop.dlm("metrics", "show", "tower", "3", *form, code=2).err
    assert in_sql(workshop, "SELECT status FROM runs ORDER BY run") == [("failed",), ("killed",)]
    (workshop.store / "metrics.sqlite").unlink()
    (workshop.store / "metrics.sqlite" / "in the way").mkdir(parents=True)
    assert [run["status"] for run in shown(workshop)] == ["failed", "killed"]

    ends = {"event": "end"}
    log(workshop, "prefer-000001-20260103T000000Z.jsonl", start, begin, {"step": 1, "rewards/margins": 0.5}, ends)
    hostile = {"event": "start", "seed": [], "started": "\x1b[31m\ud800", "key": {"a": 1}}
    lines = [{**begin, "from": "x"}, {**begin, "of": 10**40}, {"event": "begin"}, {"event": []}, "[" * 10**5]
    more = [{"step": 2**70, "loss": 1}, {"step": -1}, {"step": 4, "loss": 10**400, "\x1b": 1, "a": True, "b": "c"}]
    log(workshop, "train-000001-20260104T000000Z.jsonl", hostile, *lines, *more, {"event": "failed", "error": 3})
    (workshop.store / "logs" / "train-000001-20260105T000000Z.jsonl").mkdir()
    (workshop.store / "metrics.sqlite" / "in the way").rmdir()
    (workshop.store / "metrics.sqlite").rmdir()
    unkept, odd = shown(workshop)[2:]
    assert (unkept["phase"], unkept["status"]) == ("prefer", "failed") and "not put in place" in unkept["error"]
    assert (odd["status"], odd["error"], odd["steps"], odd["started"]) == ("failed", "3", [{"step": 4}], " [31m ")
    assert len(in_sql(workshop, "SELECT * FROM runs")) == 4
    assert "\x1b" not in workshop.dlm("metrics", "show", "tower").out
    assert workshop.dlm("metrics").out.splitlines()[1].startswith("   4  train   failed")


def test_tensorboard_gets_each_step_once_under_the_names_of_trl(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workshop.document("tower")
    make_tiny_base(workshop.folder / "base")
    workshop.doit("check")
    lines = [{"step": step, "loss": 1 / step, "rewards/margins": step} for step in (1, 2)]
    start = {"event": "start", "key": "k", "started": ""}
    log(workshop, "train-000001-20260101T000000Z.jsonl", start, {"event": "begin", "from": 0, "of": 2}, *lines)
    with monkeypatch.context() as without:
        without.chdir(workshop.folder)
        without.setenv("DLM_HOME", str(workshop.home))
        without.setitem(sys.modules, "tensorboard", None)
        assert main(["metrics", "--tensorboard", "board", "tower"]) == 1
        assert "pip install 'dlmbuild[tensorboard]'" in capsys.readouterr().err
    pytest.importorskip("tensorboard")
    for _ in range(2):
        assert workshop.dlm("metrics", "--tensorboard", "board", "tower").out == "board/tower/run1\n"
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(workshop.folder / "board" / "tower" / "run1"))
    events.Reload()
    tags = ("train/loss", "train/rewards/margins")
    assert set(events.Tags()["tensors"]) == set(tags)
    assert [[event.step for event in events.Tensors(tag)] for tag in tags] == [[1, 2], [1, 2]]


def test_wrong_words_are_refused(workshop: Workshop) -> None:
    workshop.document("tower")
    assert "not allowed with" in workshop.dlm("metrics", "show", "tower", "--csv", "--json", code=2).err
    assert "metrics watch tower --csv" in workshop.dlm("metrics", "watch", "tower", "--tensorboard", "x", code=2).err
    assert "tower is not being trained" in workshop.dlm("metrics", "watch", "tower", code=2).err
    assert "no document 'town'" in workshop.dlm("metrics", "show", "town", code=2).err
    for words in (("show",), ("watch",), ("watch", "tower", "1"), ("tower", "1"), ("show", "tower", "1", "2")):
        assert "these words fit nothing" in workshop.dlm("metrics", *words, code=2).err
