"""`dlm doctor` with a document: the plan, the memory that its training takes, what to write where it is too much."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dlmbuild.build import forecast
from dlmbuild.build.project import Project
from dlmbuild.build.trained import adapters
from dlmbuild.errors import HardwareError
from dlmbuild.hardware import detect
from dlmbuild.hardware.detect import this_machine
from dlmbuild.lock.capture import pin
from tests.ollama_server import FakeOllama
from tests.tiny import make_tiny_base
from tests.workshop import Workshop


@pytest.fixture
def tower(workshop: Workshop) -> Workshop:
    """A document whose base is fetched, and no more."""
    make_tiny_base(workshop.folder / "base")
    workshop.document("tower", more="training: {lora_r: 4, seed: 7}\n")
    said = workshop.dlm("doctor", "tower", code=1).err
    assert "the base file:./base is not here yet" in said
    workshop.follow(said)
    return workshop


def told(workshop: Workshop, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(workshop.dlm("doctor", "tower", "--json", *words).out)["document"]
    return found


def test_the_plan_and_where_its_values_come_from(tower: Workshop) -> None:
    said = tower.dlm("doctor", "tower").out
    assert "  lora_r                  4  (document)\n" in said
    assert "  learning_rate           0.0002  (recipe)\n" in said
    assert f"  precision               {this_machine().precision}  (machine)\n" in said
    assert "(the longest that there may be)" in said and "2 rows of 2048 tokens" in said
    found = told(tower)
    assert found["origins"]["target_modules"] == "base" and found["origins"]["optimizer"] == "default"
    tower.doit("dataset")
    assert found["plan"] == json.loads((tower.store / "plan.json").read_text())
    assert "(the longest of the last build)" in tower.dlm("doctor", "tower.dlm").out
    assert told(tower)["estimate"]["activations"] < found["estimate"]["activations"] / 10


def test_a_lock_is_where_a_recipe_comes_from(built: Workshop) -> None:
    assert set(told(built)["origins"].values()) == {"lock", "base", "default"}
    built.dlm("--update-lock", "doctor", "tower")


def test_it_loads_no_torch(tower: Workshop) -> None:
    script = "import sys; from dlmbuild.cli import main; main(['doctor', 'tower']); print('torch' in sys.modules)"
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, cwd=tower.folder, env=tower.env(), capture_output=True, text=True, check=True)
    assert ran.stdout.endswith("False\n")


def test_what_does_not_fit_is_told_with_what_to_write(tower: Workshop) -> None:
    assert told(tower)["verdict"] == "fits"
    # Rows that need more than any machine has.
    tower.edit("tower", "lora_r: 4", "lora_r: 4, micro_batch_size: 1024, sequence_len: 2048, grad_accum: 3")
    make_tiny_base(tower.folder / "base", layers=100)
    tower.doit("plan")
    said = tower.dlm("doctor", "tower").out
    assert "→ doit dataset:tower" in said
    assert "  does not fit: " in said and "→ write under training: micro_batch_size: " in said
    instead = told(tower)["instead"]["write"]
    assert instead["micro_batch_size"] * instead["grad_accum"] == 3 * 1024
    tower.edit("tower", "micro_batch_size: 1024", f"micro_batch_size: {instead['micro_batch_size']}")
    assert told(tower)["verdict"] == "fits"


def test_a_training_that_the_machine_cannot_hold_is_refused_and_one_that_is_short_of_memory_warned_of(
    tower: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DLM_HOME", str(tower.home))
    tower.edit("tower", "lora_r: 4", "lora_r: 4, precision: fp32")
    tower.doit("check")
    project = Project(tower.folder, ("*.dlm",))
    (document,) = project.documents
    (trained,) = adapters([document])
    plan = forecast.planned(trained, project).plan
    needed = forecast.memory(trained, project, plan)
    assert needed is not None
    machine = replace(detect.this_machine(), device="cpu", memory_bytes=2 * needed.total)
    monkeypatch.setattr(detect, "this_machine", lambda: machine)
    monkeypatch.setattr(detect, "free_memory", lambda: 2 * needed.total)
    assert forecast.require_memory(trained, project, plan) == ""
    monkeypatch.setattr(detect, "free_memory", lambda: needed.total)
    assert "dlm doctor tower says more" in forecast.require_memory(trained, project, plan)
    monkeypatch.setattr(detect, "free_memory", lambda: 0)  # not told
    assert forecast.require_memory(trained, project, plan) == ""
    machine = replace(machine, memory_bytes=needed.total - 1)
    with pytest.raises(HardwareError, match="this training takes about") as refused:
        forecast.require_memory(trained, project, plan)
    assert "write under training: micro_batch_size: 1, grad_accum: 4" in refused.value.do


def test_mistakes_are_told(tower: Workshop) -> None:
    assert "no document 'towers'" in tower.dlm("doctor", "towers", code=2).err
    assert "dlm doctor DOCUMENT --calibrate" in tower.dlm("doctor", "--calibrate", code=2).err
    said = tower.dlm("doctor", "tower", "--calibrate", code=1).err
    assert "the rows of tower are not made yet" in said
    tower.follow(said)
    tower.edit("tower", "lora_r: 4", "target_modules: [wq]")
    assert "tower.dlm:5:29: training.target_modules names" in tower.dlm("doctor", "tower", code=1).err


def test_the_machine_alone(workshop: Workshop) -> None:
    facts = json.loads(workshop.dlm("doctor", "--json").out)
    assert "document" not in facts
    assert 0 < facts["memory_free"] <= facts["memory"]
    if pin("torch").endswith("+cpu"):
        assert facts["accelerator"]["kind"] == "none"
        assert "training.precision: fp16" in facts["refused"]


def test_free_memory_of_a_container(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 8000 kB\n"}

    class File:
        def __init__(self, name: str) -> None:
            self.name = name

        def read_text(self) -> str:
            if self.name not in files:
                raise FileNotFoundError(self.name)
            return files[self.name]

    monkeypatch.setattr(detect, "Path", File)
    assert detect.free_memory() == 8000 << 10
    group = Path("/sys/fs/cgroup")
    files |= {str(group / "memory.max"): "max\n", str(group / "memory.current"): "1000\n"}
    assert detect.free_memory() == 8000 << 10
    files[str(group / "memory.max")] = "5000\n"
    assert detect.free_memory() == 4000


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("0.34.4", "takes whole models, and refuses base and adapter apart"),
        ("0.33.0", "takes whole models, and those made of base and adapter"),
        ("0.0.0", "takes whole models, and does not say which version it is"),
    ],
)
def test_the_ollama_that_answers(built: Workshop, version: str, said: str) -> None:
    with FakeOllama(built.store / "cache" / "reference.json", version) as server:
        out = built.dlm("doctor", "tower", OLLAMA_HOST=server.host).out
        assert f"ollama        {version} at http://{server.host}: {said}\n" in out and "not Q4_K_M" not in out
        assert set(server.asked) == {"GET /api/version"}


def test_an_ollama_that_refuses_the_export(built: Workshop) -> None:
    with FakeOllama(built.store / "cache" / "reference.json", "0.4.7") as server:
        out = built.dlm("doctor", "tower", OLLAMA_HOST=server.host).out
        assert "not Q4_K_M: the Ollama at" in out and "needs 0.5.5 or newer" in out
        found = json.loads(built.dlm("doctor", "tower", "--json", OLLAMA_HOST=server.host).out)
        assert found["ollama"]["version"] == "0.4.7" and list(found["document"]["ollama"]) == ["Q4_K_M"]


def test_no_ollama_is_told_without_waiting(workshop: Workshop) -> None:
    out = workshop.dlm("doctor", OLLAMA_HOST="127.0.0.1:9").out
    assert "ollama        no Ollama answers at http://127.0.0.1:9\n" in out and "→ start it (ollama serve)" in out
    with socket.socket() as silent:  # takes connections and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        before = time.monotonic()
        host = f"127.0.0.1:{silent.getsockname()[1]}"
        assert f"the Ollama at http://{host} went away" in workshop.dlm("doctor", OLLAMA_HOST=host).out
        assert time.monotonic() - before < 30
    assert "OLLAMA_HOST is no address" in workshop.dlm("doctor", OLLAMA_HOST="127.0.0.1:port").out
