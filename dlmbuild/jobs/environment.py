"""The environment of a job, fixed before any library is loaded."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping

_SETTINGS = {
    # Determinism: https://docs.pytorch.org/docs/stable/notes/randomness.html
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    "PYTHONHASHSEED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    # Threads that wait must sleep: spinning OpenMP threads on shared cores burn many times the useful work. But not at
    # once: the work of a small model comes in so small pieces that waking a thread takes as long as one of them.
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "5000",
    # Large tensors on large pages: else the system clears most of a training's memory anew in every step.
    "THP_MEM_ALLOC_ENABLE": "1",
    # oneDNN writes machine code for each shape of matrices, and steps differ in shape: a thousand pieces would be kept,
    # of more than half a megabyte. Those of one step are enough.
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64",
    "LRU_CACHE_CAPACITY": "64",
    # A job that needs the network says so; the others must not ask a hub for anything.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    # Libraries keep quiet and to themselves.
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
    "GGML_NO_BACKTRACE": "1",  # the last words of a process that llama.cpp ends are then what was wrong
}

_NETWORK = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_BLAS_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_FORGOTTEN = (
    *("PYTHONSTARTUP", "GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"),
    # How many processes train together is said by the plan, whatever started this one.
    *("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
    # Kernels are chosen by what the processor can do, which the tier names.
    *("ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_DEBUG_CPU_TYPE", "MKL_ENABLE_INSTRUCTIONS"),
    *("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "OPENBLAS_CORETYPE"),
)
_ACCELERATORS = ("/proc/driver/nvidia/version", "/dev/kfd")


def job_environment(*, threads: int, network: bool) -> Mapping[str, str]:
    """The person's environment with what a result depends on fixed. `threads` is the size of every thread pool."""
    environment = {name: value for name, value in os.environ.items() if name not in _FORGOTTEN}
    environment.update({name: v for name, v in _SETTINGS.items() if not (network and name in _NETWORK)})
    environment.update(dict.fromkeys(_BLAS_THREADS, str(threads)))
    return environment


def may_fork() -> bool:
    """Whether processes that have loaded torch may fork on this machine."""
    return sys.platform == "linux" and not any(map(os.path.exists, _ACCELERATORS))
