"""Show how the trainings of a document went: loss, speed and how each ended."""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlmbuild.cli.words import as_json, documents_meant
from dlmbuild.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from dlmbuild.store.runs import Run

_POLL_SECONDS = 0.3
_WIDTH = 60
_BLOCKS = "▁▂▃▄▅▆▇█"
_PLAIN = "_.-~=+*#"
_SHOWN = ("loss", "rewards/margins", "rewards/accuracies")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = """dlm metrics [DOCUMENT]
       dlm metrics show DOCUMENT [RUN]
       dlm metrics watch DOCUMENT"""
    parser.add_argument(
        "words",
        nargs="*",
        metavar="[show | watch] DOCUMENT",
        help="the trainings of one document or all, the newest first; `show` draws the curve of one; "
        "`watch` follows the one that runs",
    )
    formats = parser.add_mutually_exclusive_group()
    formats.add_argument("--json", action="store_true", help="for programs; with `watch` one object a line")
    formats.add_argument("--csv", action="store_true", help="for programs; of `show` and `watch`: run,step,name,value")
    formats.add_argument("--tensorboard", type=Path, metavar="DIR", help="write what TensorBoard reads below DIR")


def run(arguments: argparse.Namespace) -> int:
    from dlmbuild.store.runs import refresh_database, runs

    words: list[str] = arguments.words
    what = words.pop(0) if words[:1] in (["show"], ["watch"]) else ""
    if len(words) > 1 + (what == "show") or (what and not words):
        raise UsageError(f"dlm metrics: these words fit nothing: {' '.join([what, *words])}", do="dlm metrics --help")
    _, documents = documents_meant(words[0] if words else None)
    if what == "watch":
        if arguments.tensorboard:
            raise UsageError("what runs is not written for TensorBoard", do=f"dlm metrics watch {words[0]} --csv")
        return _watch(documents[0].name, lambda: runs(documents[0].store), arguments)
    found = {document.name: runs(document.store) for document in documents}
    for document in documents:
        if not any(one.status == "running" for one in found[document.name]):  # what runs writes it when it ends
            refresh_database(document.store)
    if len(words) == 2:
        found = {name: [one for one in all_ if str(one.run) == words[1]] for name, all_ in found.items()}
        if not any(found.values()):
            raise UsageError(f"{documents[0].name} has no training {words[1]}", do=f"dlm metrics {documents[0].name}")
    if arguments.tensorboard:
        for name, all_ in found.items():
            _write_events(arguments.tensorboard / name, all_)
    elif what:
        _show(documents[0].name, found[documents[0].name], arguments)
    else:
        _list(found, arguments)
    return 0


def _list(found: Mapping[str, Sequence[Run]], arguments: argparse.Namespace) -> None:
    rows = [{"document": name, **_facts(one)} for name, all_ in found.items() for one in reversed(all_)]
    if arguments.json:
        print(as_json([_finite(row) for row in rows]))
    elif arguments.csv:
        table = csv.DictWriter(sys.stdout, ("document", *_COLUMNS), lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    else:
        texts = [[*([name] if len(found) > 1 else []), *_table(all_)] for name, all_ in found.items() if all_]
        texts += [_untrained(name) for name, all_ in found.items() if not all_]
        print("\n\n".join("\n".join(text) for text in texts))


def _show(name: str, found: Sequence[Run], arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(as_json([_finite(one.as_data()) for one in found]))
    elif arguments.csv:
        table = csv.writer(sys.stdout, lineterminator="\n")
        table.writerow(_LONG)
        table.writerows(value for one in found for value in one.values())
    else:
        print("\n".join([*_table(found), *_curves(found[-1])] if found else _untrained(name)))


def _untrained(name: str) -> list[str]:
    return [f"{name} was not trained yet", f"  → doit train:{name}"]


def _write_events(folder: Path, found: Sequence[Run]) -> None:
    """A run of TensorBoard for each training, with the tags that TRL's own trainings have there."""
    try:
        from tensorboard.summary import Writer
    except ImportError:
        raise MissingExtra(
            "--tensorboard needs tensorboard, which is not installed",
            do="pip install 'dlmbuild[tensorboard]'   (in a checkout of dlmbuild: pip install -e '.[tensorboard]')",
        ) from None
    for one in found:
        place = folder / f"run{one.run}"
        for before in place.glob("events.out.tfevents.*"):  # ours of an earlier time; TensorBoard would show both
            before.unlink()
        writer = Writer(str(place))
        for _, step, name, value in one.values():
            writer.add_scalar(f"train/{name}", value, step)
        writer.close()
        print(place)


_LONG = ("run", "step", "name", "value")
_COLUMNS = (
    *("run", "phase", "status", "steps", "of", "first_loss", "last_loss", "tokens_per_s", "started", "ended", "seed"),
    *("adapter", "adapter_version", "key", "error"),
)


def _facts(one: Run) -> dict[str, Any]:
    """What a list says of a training."""
    losses, speeds = one.curve("loss"), one.curve("tokens_per_s")
    worked_out = {
        "steps": max(one.steps, default=0),
        "first_loss": losses[0] if losses else None,
        "last_loss": losses[-1] if losses else None,
        "tokens_per_s": speeds[-1] if speeds else None,
    }
    return {name: worked_out[name] if name in worked_out else getattr(one, name) for name in _COLUMNS}


def _table(found: Sequence[Run]) -> list[str]:
    lines = [
        f"{'run':>4}  {'phase':<8}{'status':<9}{'steps':>11}{'loss':>18}{'tokens/s':>10}  {'began (UTC)':<22}version"
    ]
    for one in reversed(found):
        facts = _facts(one)
        went = f"{facts['first_loss']:.3f} > {facts['last_loss']:.3f}" if facts["first_loss"] is not None else ""
        done = f"{facts['steps']}/{one.of or '?'}"
        speed = f"{facts['tokens_per_s']:.0f}" if facts["tokens_per_s"] is not None else ""
        row = f"{one.run:>4}  {one.phase:<8}{one.status:<9}{done:>11}{went:>18}{speed:>10}  {one.started:<22}"
        lines.append((row + " ".join(filter(None, (one.adapter, one.adapter_version)))).rstrip())
        if one.error:
            lines.append(f"      {one.error}")
    return lines


def _curves(one: Run) -> list[str]:
    lines = []
    for name in _SHOWN:
        if values := [value for value in one.curve(name) if math.isfinite(value)]:
            lines += ["", f"run {one.run}  {name}  {values[0]:.4f} > {values[-1]:.4f}", f"  {_picture(values)}"]
    return lines


def _picture(values: Sequence[float]) -> str:
    """The curve as one line of blocks, each the mean of as many steps as it stands for."""
    levels = _BLOCKS if (sys.stdout.encoding or "").lower().startswith("utf") else _PLAIN
    columns = min(_WIDTH, len(values))
    edges = [at * len(values) // columns for at in range(columns + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = min(means), max(means)
    scale = (len(levels) - 1) / (high - low) if high > low else 0
    return "".join(levels[round((mean - low) * scale)] for mean in means)


def _watch(name: str, look: Callable[[], Sequence[Run]], arguments: argparse.Namespace) -> int:
    people = sys.stderr if arguments.json or arguments.csv else sys.stdout
    header = [",".join(_LONG)] if arguments.csv else []
    shown, running, named = 0, False, False
    while True:
        found = look()
        last = found[-1] if found else None
        if last is None or (last.status != "running" and not running):
            raise UsageError(f"{name} is not being trained", do=f"doit train:{name}, or dlm metrics show {name}")
        if last.of and not named:  # until then it may turn out to go on with an earlier run
            print(f"run {last.run}: {last.phase}, {last.of} steps, began {last.started}", file=people, flush=True)
        running, named = True, named or bool(last.of)
        for step in sorted(step for step in last.steps if step > shown):
            print("\n".join([*header, *_live(last, step, arguments)]), flush=True)
            shown, header = step, []
        if last.status != "running":
            print(f"{last.status}{': ' if last.error else ''}{last.error}", file=people)
            return 0 if last.status == "ok" else 1
        time.sleep(_POLL_SECONDS)


def _live(one: Run, step: int, arguments: argparse.Namespace) -> list[str]:
    """The lines that tell of a step."""
    row = one.steps[step]
    if arguments.json:
        return [json.dumps(_finite({"run": one.run, "step": step, **row}))]
    if arguments.csv:
        return [f"{one.run},{step},{name},{value}" for name, value in sorted(row.items())]
    numbers = "  ".join(f"{name} {row[name]:.4f}" for name in _SHOWN if name in row)
    return [f"step {step}/{one.of}  {numbers}  {row.get('tokens_per_s', 0):.0f} tokens/s"]


def _finite(value: Any) -> Any:
    """JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
