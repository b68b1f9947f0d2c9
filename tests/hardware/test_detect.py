from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dlmbuild.errors import UsageError
from dlmbuild.hardware import detect
from dlmbuild.hardware.detect import Machine, this_machine

NVIDIA = "/proc/driver/nvidia/version"
CPUINFO = "/proc/cpuinfo"
Pretend = Callable[..., Machine]


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch) -> Pretend:
    """`pretend(system, processor, {path: text})` is the machine that is seen with these files."""

    def pretend(system: str = "linux", processor: str = "x86_64", files: dict[str, str] | None = None) -> Machine:
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr(detect, "_processor", lambda: processor)
        monkeypatch.setattr(detect, "Path", lambda name: _File(name, files or {}))
        monkeypatch.setattr(detect, "pin", lambda package: "2.13.0")
        return Machine(detect._device(), detect._isa(), 4, 8 << 30)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return pretend


class _File:
    def __init__(self, name: str, files: dict[str, str]) -> None:
        self._name, self._files = name, files

    def exists(self) -> bool:
        return self._name in self._files

    def read_text(self) -> str:
        if not self.exists():
            raise FileNotFoundError(self._name)
        return self._files[self._name]


def cpu(flags: str) -> dict[str, str]:
    return {CPUINFO: f"processor\t: 0\nflags\t\t: fpu {flags}\nbugs\t\t: avx512f\nprocessor\t: 1\nflags\t\t: avx512f\n"}


@pytest.mark.parametrize(
    ("flags", "tier"),
    [
        ("avx2 avx512f amx_bf16 avx512_bf16 amx_tile", "cpu-amx"),
        ("avx2 avx512f avx512vl avx512_bf16", "cpu-avx512-bf16"),
        ("sse2 avx avx2 avx512f", "cpu-avx512"),
        ("avx avx2", "cpu-avx2"),
        ("sse2 avx", "cpu-baseline"),
    ],
)
def test_the_tier_of_a_cpu_holds_its_instruction_set(pretend: Pretend, flags: str, tier: str) -> None:
    machine = pretend(files=cpu(flags))
    assert machine.tier == tier
    assert machine.precision == ("bf16" if tier in ("cpu-amx", "cpu-avx512-bf16") else "fp32")


def test_other_systems(pretend: Pretend) -> None:
    assert pretend("darwin", "arm64").tier == "mps"
    assert pretend("darwin", "x86_64").tier == "cpu-baseline"
    assert pretend("linux", "aarch64").tier == "cpu-neon"
    assert pretend("win32", "AMD64").tier == "cpu-baseline"


def test_a_gpu_and_how_to_hide_it(pretend: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {NVIDIA: "NVRM version", **cpu("avx2")}
    assert pretend(files=files).tier == "cuda"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert pretend(files=files).tier == "cuda"
    for hidden in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert pretend(files=files).tier == "cpu-avx2"


def test_a_gpu_that_torch_was_not_built_for_does_not_count(pretend: Pretend, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(files={NVIDIA: "NVRM version", **cpu("avx2")})
    monkeypatch.setattr(detect, "pin", lambda package: "2.13.0+cpu")
    assert detect._device() == "cpu"


def test_this_machine() -> None:
    found = this_machine()
    assert found.device in ("cuda", "mps", "cpu")
    assert found.cores >= 1
    assert 1 << 28 < found.memory_bytes < 1 << 50
    assert this_machine() is found


def test_a_system_that_does_not_tell_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(os, "sysconf", refuse)
    assert detect._memory() == 8 << 30


def test_how_many_processes_train_is_said_by_the_person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DLM_PROCESSES", raising=False)
    assert detect.processes_asked() == 0
    for written, count in (("", 0), ("3", 3)):
        monkeypatch.setenv("DLM_PROCESSES", written)
        assert detect.processes_asked() == count
    for wrong in ("two", "-1", "1000", "²"):
        monkeypatch.setenv("DLM_PROCESSES", wrong)
        with pytest.raises(UsageError, match="DLM_PROCESSES is"):
            detect.processes_asked()


@pytest.mark.parametrize(("visible", "count"), [(None, 3), ("0,2", 2), ("1", 1), ("0,1,2,3", 3)])
def test_gpus_that_may_be_seen_are_counted(
    visible: str | None, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("0000:01:00.0", "0000:02:00.0", "0000:03:00.0"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(detect, "Path", lambda _: tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert detect._gpus() == count
