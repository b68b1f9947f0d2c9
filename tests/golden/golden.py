"""The adapters that known circumstances are known to give, as digests in adapters.json. `doit golden` refreshes them.

Circumstances are what a training's bytes may depend on beside document and plan: packages, hardware tier, processor
model (libraries choose kernels and block sizes by it) and the number of threads. Tests that run beside others see a
share of the cores (tests/conftest.py): on two cores theirs are written down by `taskset -c 0 doit golden`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from dlmbuild.hardware.detect import this_machine
from dlmbuild.io.digest import readable_json, sha256_file
from dlmbuild.lock.capture import TRAINING_PINS, pins

FILE = Path(__file__).with_name("adapters.json")
REPOSITORY = FILE.parents[2]
SCRIPTS = Path(sys.executable).parent


def circumstances() -> dict[str, Any]:
    machine = this_machine()
    named = {"pins": pins(TRAINING_PINS), "tier": machine.tier, "threads": machine.threads}
    return {**named, "processor": _processor()}


def known() -> dict[str, str] | None:
    """Name → digest for the present circumstances; None where nobody has written them down yet."""
    here = circumstances()
    return next((entry["adapters"] for entry in _entries() if entry["circumstances"] == here), None)


def selftest(environment: dict[str, str]) -> list[str]:
    """The adapters of both self-tests, through the command line."""
    command = [str(SCRIPTS / "dlm"), "doctor", "--selftest", "--json"]
    ran = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return list(json.loads(ran.stdout)["selftest"])


def _entries() -> list[dict[str, Any]]:
    return list(json.loads(FILE.read_bytes())) if FILE.exists() else []


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""
    lines = (line.partition(":") for line in text.split("\n\n")[0].splitlines())
    fields = {name.strip(): value.strip() for name, _, value in lines}
    return " ".join(fields.get(name, "") for name in ("vendor_id", "cpu family", "model", "cache size")).strip()


def _handbook(home: Path, environment: dict[str, str]) -> str:
    subprocess.run([str(SCRIPTS / "doit"), "train:handbook"], cwd=REPOSITORY, env=environment, check=True)
    (adapter,) = home.glob("store/*/adapter/versions/*/adapter_model.safetensors")
    return sha256_file(adapter)


def main() -> None:
    """Train both, say what was written down and what came out, and write that down."""
    old = known() or {}
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "DLM_HOME": folder}
        new = {"selftest": selftest(environment)[0], "handbook": _handbook(Path(folder), environment)}
    for name, digest in new.items():
        same = "as before" if old.get(name) == digest else f"was {old.get(name, 'not written down')}"
        print(f"{name:<10}{digest}  {same}")
    here = circumstances()
    others = [entry for entry in _entries() if entry["circumstances"] != here]
    FILE.write_bytes(readable_json([*others, {"circumstances": here, "adapters": new}]))


if __name__ == "__main__":
    main()
