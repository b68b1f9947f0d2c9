"""Two processes that train one adapter, as `doit train` starts them: over gloo, on this processor."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workshop import Workshop

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc"),
]

ENDLESS = "training: {num_epochs: 1000}\n"


def test_one_writer_one_adapter_and_no_process_that_outlives_it(built: Workshop) -> None:
    """One build, because most of it is loading torch: `again` and `echo` train alike, two others never end."""
    built.document("again")
    built.document("echo", more="training: {sequence_len: 1000}\n")  # longer than any row: nothing else, but a new key
    built.document("harbour", more=ENDLESS)
    built.document("zenith", more=ENDLESS)
    built.doit("plan", "dataset", DLM_PROCESSES="2")  # so that the trainings run in the order written
    order = [f"train:{name}" for name in ("again", "echo", "harbour", "zenith")]
    build = built.start("doit", "--continue", *order, alone=True, DLM_PROCESSES="2", DLM_FORKSERVER="")
    try:
        first, second = _ranks(build.pid, lambda: bool(_losses(_store(built, "harbour"))))
        assert {address for rank in (first, second) for address in _listening(rank)} == {"0100007F"}  # 127.0.0.1
        os.kill(second, signal.SIGKILL)
        _until(lambda: not _alive(first))

        ranks = _ranks(build.pid, lambda: bool(_losses(_store(built, "zenith"))))
        build.kill()
        _until(lambda: not any(map(_alive, ranks)))
    finally:
        build.kill()
    assert build.stdout and build.stderr
    said = build.stdout.read() + build.stderr.read()
    assert "the job 'train' died (signal SIGKILL)" in said

    again, echo, alone = (_store(built, name) for name in ("again", "echo", "tower"))
    versions = [path.name for path in (again / "adapter" / "versions").iterdir()]
    assert versions == ["v0001"] and _weights(again) == _weights(echo) != _weights(alone)
    assert _losses(again) == _losses(echo) == pytest.approx(_losses(alone), rel=1e-3)
    plan = json.loads((again / "plan.json").read_bytes())
    assert (plan["micro_batch_size"], plan["grad_accum"], plan["world_size"]) == (2, 1, 2)
    assert not (_store(built, "harbour") / "adapter" / "current.txt").exists()


def _store(shop: Workshop, name: str) -> Path:
    return shop.home / "store" / (shop.folder / f"{name}.dlm").read_text().partition("dlm_id: ")[2][:26]


def _weights(store: Path) -> bytes:
    return (store / "adapter" / "versions" / "v0001" / "adapter_model.safetensors").read_bytes()


def _losses(store: Path) -> list[float]:
    """Of each step, as often as somebody wrote it."""
    logs = store.glob("logs/*.jsonl")
    return [line["loss"] for log in logs for line in map(json.loads, log.read_text().splitlines()) if "loss" in line]


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


def _listening(pid: int) -> list[str]:
    """The addresses at which a process waits for connections, as the kernel writes them."""
    files = [str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]
    sockets = [line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()]
    return [s[1].partition(":")[0] for s in sockets if s[3] == "0A" and f"socket:[{s[9]}]" in files]


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
