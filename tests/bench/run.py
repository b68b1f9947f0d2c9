"""What the main job costs here, measured in a home of its own. Run it with `doit bench`.

CPU seconds are the honest number on a machine that does other things too; ratios compare within one run.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.bench import export, imatrix, parse, quality, sources
from tests.bench.cost import SCRIPTS, Cost, cost
from tests.bench.null import REAL, null_builds

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
QUANT = "Q4_K_M"
QUANTIZE = f"quantize:smollm2-135m:{QUANT}"
STAGES = (
    "base",
    "dataset:handbook",
    "retention:smollm2-135m",
    "train:handbook",
    "gguf",
    QUANTIZE,
    "parity:handbook",
    "imatrix:handbook",
    f"merge:handbook:{QUANT}",
    f"smoke:handbook:{QUANT}",
    f"export:handbook:{QUANT}",
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        environment = {**os.environ, "DLM_HOME": str(home)}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # else every start compiles ours, and only ours, again
        doit = str(SCRIPTS / "doit")
        print(f"{'stage':<28}{'wall s':>8}{'CPU s':>8}{'peak MB':>9}")
        total = 0.0
        spent = {}
        for stage in STAGES:
            spent[stage] = cost([doit, stage], REPOSITORY, environment)
            total += spent[stage].cpu
            print(f"{stage:<28}{spent[stage].wall:8.1f}{spent[stage].cpu:8.1f}{spent[stage].peak:9.0f}", flush=True)
        print(f"{'together':<28}{'':8}{total:8.1f}")
        _conversion(home, spent)
        _memory(spent["train:handbook"], environment)
        _training_speed(home, environment)
        _detour(home)
        imatrix.compare(imatrix.QUANTS, home, environment)
        quality.compare(list(quality.EXAMPLES), home, environment)
        _edit(Path(folder), environment)
    null_builds(others=True)
    parse.main()
    sources.main()


def _conversion(home: Path, spent: Mapping[str, Cost]) -> None:
    megabytes = (home / "bases" / "smollm2-135m" / "base.F16.gguf").stat().st_size / 1e6
    for stage, name in (("gguf", "conversion"), (QUANTIZE, "quantisation")):
        print(f"{name}: {megabytes / spent[stage].cpu:.0f} MB of F16 per CPU second, start-up included")


def _detour(home: Path) -> None:
    folder = home / "bases" / "smollm2-135m"
    checkpoint = folder / json.loads((folder / "base.json").read_bytes())["revision"]
    (adapters,) = (home / "store").glob("*/adapter")
    export.main(str(checkpoint), str(adapters / (adapters / "current.txt").read_text().strip()), QUANT)


def _training_speed(home: Path, environment: Mapping[str, str]) -> None:
    (store,) = (home / "store").iterdir()
    facts = json.loads((home / "bases" / "smollm2-135m" / "base.json").read_bytes())
    checkpoint = home / "bases" / "smollm2-135m" / facts["revision"]
    plan = json.loads((store / "plan.json").read_bytes())
    threads = str(plan["threads"])
    fixed = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "5000"}
    arguments = [str(checkpoint), str(store / "dataset.json"), str(store / "plan.json")]
    bare = cost([sys.executable, str(HERE / "bare_loop.py"), *arguments], REPOSITORY, {**environment, **fixed})
    slow = json.loads(bare.out)["tokens_per_cpu_s"]
    log = map(json.loads, next((store / "logs").glob("train-*.jsonl")).read_text().splitlines())
    run = next(line for line in log if line.get("event") == "end")
    ours = run["tokens"] / run["cpu_s"]
    print(f"training: {ours:.0f} tokens per CPU second, bare loop {slow:.0f}: ratio {ours / slow:.2f}")
    peak = float(cost([sys.executable, str(HERE / "matmul.py"), threads], REPOSITORY, {**environment, **fixed}).out)
    # A frozen weight takes two operations forward and two for the gradient of what went into it (Kaplan et al. 2020,
    # arXiv 2001.08361, section 2.1, without those for the gradient of the weight itself). In every layer: what a frozen
    # prefix saves counts as speed.
    most = peak / (4 * facts["parameters"])
    print(f"matmul peak: {peak / 1e9:.0f} Gflop per CPU second, {most:.0f} tokens of LoRA: {ours / most:.0%} of it")


def _memory(training: Cost, environment: Mapping[str, str]) -> None:
    told = json.loads(cost([str(SCRIPTS / "dlm"), "doctor", "handbook", "--json"], REPOSITORY, environment).out)
    estimate = told["document"]["estimate"]["total"] / 2**20
    print(f"peak memory of training: {training.peak:.0f} MB, estimate {estimate:.0f}: {estimate / training.peak:.2f}")


def _edit(folder: Path, environment: Mapping[str, str]) -> None:
    """An edited answer to its finished export: what the jobs take, and what everything around them does."""
    project = folder / "edited"
    shutil.copytree(REPOSITORY / "examples" / "handbook", project)
    (project / "dodo.py").write_text(REAL)
    document = project / "handbook.dlm"
    _inside(project, environment)
    document.write_text(
        document.read_text().replace("### A\n", "### A\nReally: ", 1)
    )  # the last ones are never trained
    for what in ("an edited answer", "nothing to do", f"{QUANT} touched", "nothing to do"):
        if "touched" in what:
            os.utime(next((Path(environment["DLM_HOME"]) / "bases").glob(f"*/base.{QUANT}.gguf")))
        took = _inside(project, environment)
        print(
            f"{what}: jobs {took['jobs']:.1f} CPU s, everything else {took['own']:.2f}, "
            f"{took['hashed'] / 1e6:.2f} MB hashed",
            flush=True,
        )


def _inside(project: Path, environment: Mapping[str, str]) -> dict[str, float]:
    out = cost([sys.executable, str(HERE / "inside.py"), f"export:{QUANT}"], project, environment).out
    found: dict[str, float] = json.loads(out.splitlines()[-1])
    return found


if __name__ == "__main__":
    main()
