"""Say what this machine can do for a build: hardware, packages, room on the disk, and how exactly it trains."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from dlmbuild.hardware.detect import Machine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--selftest", action="store_true", help="train the same five steps twice and compare the bytes")
    parser.add_argument("--json", action="store_true", help="as JSON, for programs")


def run(arguments: argparse.Namespace) -> int:
    from dlmbuild.hardware.detect import this_machine
    from dlmbuild.hardware.doctor import describe, note_selftest
    from dlmbuild.store.layout import Home

    home, machine = Home.default(), this_machine()
    adapters = []
    if arguments.selftest:
        adapters = [_five_steps(machine, f"{turn} of 2") for turn in (1, 2)]
        note_selftest(home, machine, adapters)
    facts = describe(home, machine)
    if adapters:
        facts["selftest"] = adapters
    print(json.dumps(facts, indent=2) if arguments.json else _text(facts))
    return 0 if len(set(adapters)) < 2 else 1


def _five_steps(machine: Machine, turn: str) -> str:
    from dlmbuild.jobs.local import require_extra, run_job

    require_extra("torch", "transformers", "peft", "trl", "accelerate", "datasets", "safetensors")
    print(f"self-test {turn}: five training steps in a process of their own", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        result = run_job(
            "selftest",
            inputs={},
            params={"device": machine.device, "precision": machine.precision, "threads": machine.threads},
            out=Path(folder),
            log=Path(folder) / "selftest.log",
            threads=machine.threads,
        )
    return str(result["adapter"])


def _text(facts: dict[str, Any]) -> str:
    missing = [name for name, version in facts["packages"].items() if not version]
    here = ", ".join(f"{name} {version}" for name, version in facts["packages"].items() if version)
    exact = {
        "strong": "strong: the same document trains to the same bytes here, every time",
        "best-effort": "best-effort: two trainings agree nearly; some kernels here are not exact",
        "advisory": "advisory: two trainings of the same steps differed here",
    }[facts["determinism"]]
    known = "measured" if facts["determinism_measured"] else "not measured here; dlm doctor --selftest does"
    lines = [
        f"device        {facts['device']} ({facts['tier']}), {facts['cores']} cores, {facts['memory'] / 2**30:.0f} GiB",
        f"determinism   {exact} ({known})",
        f"packages      {here or 'none of those that train and export'}",
        f"home          {facts['home']}, {facts['free'] / 2**30:.0f} GiB free",
        f"sha256        {facts['sha256_bytes_per_s'] / 1e9:.1f} GB/s",
    ]
    if missing:
        lines[3:3] = [f"not here      {', '.join(missing)}", "              → pip install 'dlmbuild[train]'"]
    for turn, digest in enumerate(facts.get("selftest", ()), 1):
        lines.append(f"self-test {turn}   adapter {digest}")
    return "\n".join(lines)
