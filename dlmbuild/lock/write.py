"""dlm.lock: what the last training of a document ran under, in TOML for people to read and compare.

Whoever wants the same adapter bytes needs the same document, base, plan, tier, pins and flags; they all stand here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlmbuild.io.atomic import write_atomic

LOCK_VERSION = 1

_CLASSES = {"cuda": "strong", "cpu": "strong", "mps": "best-effort"}
"""How far two trainings agree: `strong` to the byte, on hardware of the same tier; `best-effort` nearly."""

_FLAGS = {"use_deterministic_algorithms": True, "cublas_workspace_config": ":4096:8"}


def lock_data(
    *,
    dlm_id: str,
    base: Mapping[str, Any],
    plan: Mapping[str, Any],
    pins: Mapping[str, str],
    tier: str,
    license: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The content of dlm.lock. `base` is the base's identity (name, revision, source, files)."""
    return {
        "lock_version": LOCK_VERSION,
        "dlm_id": dlm_id,
        "base": {name: base[name] for name in ("name", "revision", "source")}
        | {"files": dict(sorted(base["files"].items()))},
        "pins": dict(sorted(pins.items())),
        "hardware": {"tier": tier},
        "determinism": {"class": _CLASSES[plan["device"]], "seed": plan["seed"], "flags": dict(_FLAGS)},
        "plan": {name: value for name, value in sorted(plan.items()) if value is not None},
        "license": {name: value for name, value in (license or {}).items() if value},
    }


def write_lock(path: Path, data: Mapping[str, Any]) -> None:
    """Write dlm.lock in one step."""
    import tomli_w

    header = "# What the last training of this document ran under. Written by `doit train`.\n\n"
    write_atomic(path, (header + tomli_w.dumps(data)).encode())
