"""Show how the trainings of a document went: loss, speed and how each ended."""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlmbuild.cli.words import whole
from dlmbuild.errors import UsageError

if TYPE_CHECKING:
    from dlmbuild.store.runs import Run

_POLL_SECONDS = 0.3
_WIDTH = 60
_BLOCKS = "▁▂▃▄▅▆▇█"
_PLAIN = "_.-~=+*#"
_SHOWN = ("loss", "rewards/margins", "rewards/accuracies")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "what", choices=("show", "watch"), help="the trainings so far, or the one that runs, as it goes"
    )
    parser.add_argument("document", help="name or path of a document")
    parser.add_argument("--run", type=whole(1, 2**31), metavar="N", help="one training, as `show` numbers them")
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument("--json", action="store_true", help="every step as JSON, for programs")
    formats.add_argument("--csv", action="store_true", help="every step as run,step,name,value")


def run(arguments: argparse.Namespace) -> int:
    from dlmbuild.build.project import find_document
    from dlmbuild.store.disk import require_readable
    from dlmbuild.store.runs import refresh_database, runs

    project, document = find_document(arguments.document, Path.cwd())
    store, dlm_id = document.store, document.dlm_id
    require_readable(project.archive.home, store.root)
    if arguments.what == "watch":
        if arguments.json or arguments.csv or arguments.run:
            raise UsageError("watch follows the training that runs, for people", do=f"dlm metrics show {document.name}")
        return _watch(document.name, lambda: runs(store, dlm_id))
    found = runs(store, dlm_id)
    if not any(one.status == "running" for one in found):  # what runs writes it when it ends
        refresh_database(store, dlm_id)
    if arguments.run:
        found = [one for one in found if one.run == arguments.run]
    if arguments.json:
        print(json.dumps([_finite(one.as_data()) for one in found], indent=2, ensure_ascii=False))
    elif arguments.csv:
        table = csv.writer(sys.stdout, lineterminator="\n")
        table.writerow(("run", "step", "name", "value"))
        table.writerows(value for one in found for value in one.values())
    elif found:
        print("\n".join(_text(found)))
    elif arguments.run:
        raise UsageError(f"{document.name} has no training {arguments.run}", do=f"dlm metrics show {document.name}")
    else:
        print(f"{document.name} was not trained yet\n  → doit train:{document.name}")
    return 0


def _text(found: Sequence[Run]) -> list[str]:
    lines = [
        f"{'run':>4}  {'phase':<8}{'status':<9}{'steps':>11}{'loss':>18}{'tokens/s':>10}  {'began (UTC)':<22}version"
    ]
    for one in found:
        losses, speeds = one.curve("loss"), one.curve("tokens_per_s")
        went = f"{losses[0]:.3f} > {losses[-1]:.3f}" if losses else ""
        done = f"{max(one.steps, default=0)}/{one.of}"
        speed = f"{speeds[-1]:.0f}" if speeds else ""
        version = one.adapter_version or ""
        lines.append(_row(str(one.run), one.phase, one.status, done, went, speed, one.started, version))
        if one.error:
            lines.append(f"      {one.error}")
    last = found[-1]
    for name in _SHOWN:
        if values := [value for value in last.curve(name) if math.isfinite(value)]:
            lines += ["", f"run {last.run}  {name}  {values[0]:.4f} > {values[-1]:.4f}", f"  {_picture(values)}"]
    return lines


def _row(run: str, phase: str, status: str, steps: str, loss: str, speed: str, began: str, version: str) -> str:
    row = f"{run:>4}  {phase:<8}{status:<9}{steps:>11}{loss:>18}{speed:>10}  {began:<22}{version}"
    return row.rstrip()


def _picture(values: Sequence[float]) -> str:
    """The curve as one line of blocks, each the mean of as many steps as it stands for."""
    levels = _BLOCKS if (sys.stdout.encoding or "").lower().startswith("utf") else _PLAIN
    columns = min(_WIDTH, len(values))
    edges = [at * len(values) // columns for at in range(columns + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(levels) - 1) / (high - low) if high > low else 0
    return "".join(levels[round((mean - low) * scale)] for mean in means)


def _watch(name: str, look: Any) -> int:
    shown, running = 0, False
    while True:
        found = look()
        last = found[-1] if found else None
        if last is None or (last.status != "running" and not running):
            raise UsageError(f"{name} is not being trained", do=f"doit train:{name}, or dlm metrics show {name}")
        if not running:
            print(f"run {last.run}: {last.phase}, {last.of} steps, began {last.started}")
        running = True
        for step in sorted(step for step in last.steps if step > shown):
            row = last.steps[step]
            numbers = "  ".join(f"{key} {row[key]:.4f}" for key in _SHOWN if key in row)
            print(f"step {step}/{last.of}  {numbers}  {row.get('tokens_per_s', 0):.0f} tokens/s", flush=True)
            shown = step
        if last.status != "running":
            print(f"{last.status}{': ' + last.error if last.error else ''}")
            return 0 if last.status == "ok" else 1
        time.sleep(_POLL_SECONDS)


def _finite(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
