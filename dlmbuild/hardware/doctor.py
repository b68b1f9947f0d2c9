"""What a person should know about this machine before a build: hardware, packages, room, and how exact it is.

Nothing here loads torch. How exact the machine is can be measured (`dlm doctor --selftest`); what was measured is kept
below $DLM_HOME for the tier and torch that it was measured with, and is what dlm.lock then says.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from typing import Any

from dlmbuild.hardware.detect import Machine, free_memory
from dlmbuild.io.atomic import write_atomic
from dlmbuild.io.digest import readable_json
from dlmbuild.lock.capture import EXPORT_PINS, TRAINING_PINS, determinism, pin
from dlmbuild.store.layout import Home

_HASHED = 32 << 20


def determinism_here(home: Home, machine: Machine) -> dict[str, object]:
    """Class and flags of a training on this machine: as measured, or as its kind of hardware is known to be."""
    found = determinism(machine.device, machine.processes)
    measured = _measurements(home).get(_circumstances(machine))
    return found if measured is None else {**found, "class": measured["class"]}


def note_selftest(home: Home, machine: Machine, adapters: list[str]) -> None:
    """Keep what two self-tests made, given as digests, and the class that follows."""
    same = len(set(adapters)) == 1
    entry = {"class": determinism(machine.device)["class"] if same else "advisory", "adapters": adapters}
    write_atomic(home.selftest, readable_json({**_measurements(home), _circumstances(machine): entry}))


def describe(home: Home, machine: Machine) -> dict[str, Any]:
    """The facts by name, for people and programs."""
    place = next(path for path in (home.root, *home.root.parents) if path.is_dir())
    measured = _circumstances(machine) in _measurements(home)
    return {
        "device": machine.device,
        "tier": machine.tier,
        "cores": machine.cores,
        "memory": machine.memory_bytes,
        "memory_free": free_memory(),
        "precision": machine.precision,
        "determinism": determinism_here(home, machine)["class"],
        "determinism_measured": measured,
        "packages": {name: pin(name) for name in (*TRAINING_PINS, *EXPORT_PINS)},
        "home": str(home.root),
        "free": shutil.disk_usage(place).free,
        "sha256_bytes_per_s": _hash_rate(),
    }


def _hash_rate() -> float:
    data = bytes(_HASHED)
    started = time.perf_counter()
    hashlib.sha256(data).digest()
    return _HASHED / (time.perf_counter() - started)


def _circumstances(machine: Machine) -> str:
    return f"{machine.tier} torch {pin('torch')}"


def _measurements(home: Home) -> dict[str, Any]:
    try:
        found = json.loads(home.selftest.read_bytes())
        return {name: entry for name, entry in found.items() if isinstance(entry["class"], str)}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}  # never measured, or unreadable: measured again, nothing is lost
