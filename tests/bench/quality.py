"""What the examples' models know, and what a plain TRL script teaches the same base in the same CPU time.

    python -m tests.bench.quality [DOCUMENT...]

All are asked and scored as `doit evaluate` does it: the bare base, the adapter, the shipped export, and TRL's adapter.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import dlmbuild.eval
from dlmbuild.build.reading import read_json
from dlmbuild.doc.document import parse
from dlmbuild.eval.report import make_report, table
from tests.bench.cost import SCRIPTS, cost

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
EXAMPLES = {path.stem: path for path in sorted((REPOSITORY / "examples").glob("*/*.dlm"))}


def compare(names: Sequence[str], home: Path, environment: Mapping[str, str]) -> None:
    """Print a table for each of the examples `names`, built below `home` where they are not yet."""
    for name in names:
        document = parse(EXAMPLES[name]).frontmatter
        cost([str(SCRIPTS / "doit"), f"evaluate:{name}"], REPOSITORY, environment)
        store, base = home / "store" / document.dlm_id, home / "bases" / document.base_model
        checkpoint = base / read_json(base / "base.json")["revision"]
        seconds = training_seconds(store)
        report = read_json(store / "eval" / "report.json")
        shipped = report["shipped"]
        models = {who: read_json(store / "eval" / f"{who}.json") for who in ("base", "adapter")}
        models[shipped] = read_json(store / "eval" / "export.json")
        with tempfile.TemporaryDirectory() as folder:
            found = Path(folder) / "trl.json"
            words = map(str, (HERE / "plain_trl.py", checkpoint, store, seconds, found))
            run = json.loads(cost([sys.executable, *words], REPOSITORY, environment).out.splitlines()[-1])
            models["TRL"] = read_json(found)
        asked: dict[str, list[tuple[str, str]]] = {}
        for one in report["questions"]:
            asked.setdefault(one["sort"], []).append((one["question"], one["expected"]))
        items = read_json(Path(dlmbuild.eval.__path__[0]) / "general.json")["items"]
        ours, theirs = (table(make_report(models, asked, items, who), name).splitlines() for who in (shipped, "TRL"))
        print("\n".join([*ours, theirs[-1]]))
        print(f"{name}: {seconds:.0f} CPU s of training; TRL {run['cpu_s']:.0f} in {run['steps']} steps", flush=True)


def training_seconds(store: Path) -> float:
    """CPU seconds of the training steps of all phases, of a document that was built once."""
    lines = (json.loads(line) for log in (store / "logs").glob("*.jsonl") for line in log.read_text().splitlines())
    return float(sum(line["cpu_s"] for line in lines if line.get("event") == "end"))


def main() -> None:
    names = sys.argv[1:] or list(EXAMPLES)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(os.environ.get("DLM_HOME", folder))
        compare(names, home, {**os.environ, "DLM_HOME": str(home)})


if __name__ == "__main__":
    main()
