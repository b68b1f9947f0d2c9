"""This machine, as far as a result can depend on it, seen without importing torch."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dlmbuild.errors import UsageError
from dlmbuild.lock.capture import pin

MAX_THREADS = 8
"""Small matrices do not gain from more."""
_PROCESSES = "DLM_PROCESSES"
_X86 = {"amx": "amx_bf16", "avx512-bf16": "avx512_bf16", "avx512": "avx512f", "avx2": "avx2"}
"""Levels of instructions that libraries choose kernels by → the flag of a processor that has them, the best first."""
_BF16 = ("amx", "avx512-bf16")
"""Those with products of bf16, in half of fp32's time; in software they take longer. ARM's were never measured."""
_MOST_PROCESSES = 64


@dataclass(frozen=True, slots=True)
class Machine:
    """The hardware that a plan is made for."""

    device: str
    """cuda, mps or cpu."""
    isa: str
    """Instruction set that CPU kernels are chosen by: results differ between levels, so it is part of the tier."""
    cores: int
    memory_bytes: int
    """All of it, not what happens to be free: a plan must not change from one minute to the next."""
    processes: int = 1
    """How many may train together."""

    @property
    def tier(self) -> str:
        return self.device if self.device != "cpu" else f"cpu-{self.isa}"

    @property
    def threads(self) -> int:
        """How many threads a training takes."""
        return min(self.cores, MAX_THREADS)

    @property
    def precision(self) -> str:
        """What a training computes in unless the document says otherwise."""
        return "bf16" if self.device == "cuda" or (self.device == "cpu" and self.isa in _BF16) else "fp32"


@cache
def this_machine() -> Machine:
    """What is found here. Set CUDA_VISIBLE_DEVICES to "" to plan for the CPU of a machine with a GPU."""
    device = _device()
    return Machine(device, _isa(), _cores(), _memory(), processes_asked() or (_gpus() if device == "cuda" else 1))


def processes_asked() -> int:
    """$DLM_PROCESSES, or 0. Raises UsageError for what is no number of processes."""
    written = os.environ.get(_PROCESSES) or "0"
    if not (written.isascii() and written.isdigit() and int(written) <= _MOST_PROCESSES):
        raise UsageError(f"{_PROCESSES} is {written!r}, not a number of processes", do="unset it, or set it to 2")
    return int(written)


def _gpus() -> int:
    """Those that CUDA_VISIBLE_DEVICES leaves."""
    here = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return max(1, min(here, len(visible.split(","))) if visible else here)


def _cores() -> int:
    """Those that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _device() -> str:
    if pin("torch").endswith("+cpu"):
        return "cpu"
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0") not in ("", "-1") and Path("/proc/driver/nvidia/version").exists():
        return "cuda"
    if sys.platform == "darwin" and _processor() == "arm64":
        return "mps"
    return "cpu"


def _processor() -> str:
    # As platform.machine() has it, which costs a module of its own.
    return os.uname().machine if hasattr(os, "uname") else os.environ.get("PROCESSOR_ARCHITECTURE", "")


def _isa() -> str:
    if _processor().lower() in ("arm64", "aarch64"):
        return "neon"
    try:
        flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    except OSError:
        flags = []
    return next((name for name, flag in _X86.items() if flag in flags), "baseline")


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):  # not every system tells
        return 8 << 30


def free_memory() -> int:
    """Bytes of this machine's memory that a new process can have now; 0 where the system does not tell.

    In a container what its group may still take, which is less than the kernel has.
    """
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        (available,) = (int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, ValueError, IndexError):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
        except (ValueError, OSError, AttributeError):
            return 0
    try:
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        return max(0, min(available, limit - used))
    except (OSError, ValueError):  # no group, or one without a limit, which reads "max"
        return available
