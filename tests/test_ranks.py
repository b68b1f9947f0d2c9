"""Two processes that train one adapter, as `doit train` starts them: over gloo, on this processor."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dlmbuild.doc.document import parse
from tests.workshop import Workshop

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc"),
]

ENDLESS = "training: {num_epochs: 1000}\n"


def test_one_writer_one_adapter_and_no_process_that_outlives_it(built: Workshop) -> None:
    """One build, because most of it is loading torch: `again` and `tower` say the same, two others never end."""
    built.document("again")
    built.document("harbour", more=ENDLESS)
    built.document("zenith", more=ENDLESS)
    build = built.start("doit", "--continue", "lock=update", "train", alone=True, DLM_PROCESSES="2")

    first, second = _ranks(build.pid, lambda: _steps(built, "harbour"))
    os.kill(second, signal.SIGKILL)
    _until(lambda: not _alive(first))

    ranks = _ranks(build.pid, lambda: _steps(built, "zenith"))
    build.kill()
    _until(lambda: not any(map(_alive, ranks)))
    assert build.stdout and build.stderr
    said = build.stdout.read() + build.stderr.read()
    assert "the job 'train' died (signal SIGKILL)" in said

    assert (_adapter(built, "again", "v0001")).read_bytes() == _adapter(built, "tower", "v0002").read_bytes()
    logs = [_lines(log) for log in sorted((_store(built, "tower") / "logs").glob("train-*.jsonl"))]
    alone, shared = ([line["loss"] for line in log if "loss" in line] for log in logs)
    assert shared == pytest.approx(alone, rel=1e-3) and len(set(shared)) == len(shared)
    plan = json.loads((_store(built, "tower") / "plan.json").read_bytes())
    assert (plan["micro_batch_size"], plan["grad_accum"], plan["world_size"]) == (2, 1, 2)
    assert not (_store(built, "harbour") / "adapter" / "current.txt").exists()


def _store(shop: Workshop, name: str) -> Path:
    return shop.home / "store" / parse(shop.folder / f"{name}.dlm").dlm_id


def _adapter(shop: Workshop, name: str, version: str) -> Path:
    return _store(shop, name) / "adapter" / "versions" / version / "adapter_model.safetensors"


def _lines(log: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def _steps(shop: Workshop, name: str) -> bool:
    return any("loss" in line for log in (_store(shop, name) / "logs").glob("*.jsonl") for line in _lines(log))


def _ranks(build: int, begun: Callable[[], bool]) -> list[int]:
    """The processes that train once a training has begun: those below a build that have none below them."""
    _until(begun)
    below = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            below[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue

    def of_build(pid: int) -> bool:
        return pid == build or (pid in below and of_build(below[pid]))

    found = sorted(pid for pid in below if pid not in below.values() and of_build(pid))
    assert len(found) == 2
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)
