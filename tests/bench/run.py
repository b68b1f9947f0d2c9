"""What the main job costs here, measured in a home of its own. Run it with `doit bench`.

CPU seconds are the honest number on a machine that does other things too; ratios compare within one run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
SCRIPTS = Path(sys.executable).parent
QUANT = "Q4_K_M"
STAGES = (
    "base",
    "dataset",
    "train",
    "gguf",
    f"quantize:smollm2-135m:{QUANT}",
    "parity",
    f"merge:handbook:{QUANT}",
    f"smoke:handbook:{QUANT}",
    f"export:{QUANT}",
)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command took: seconds of wall and CPU time, and peak memory of its largest process in MB."""

    wall: float
    cpu: float
    peak: float
    out: str


def cost(command: list[str], cwd: Path, environment: Mapping[str, str]) -> Cost:
    """Run a command to its end. The CPU time includes its child processes."""
    with tempfile.TemporaryFile("w+") as out:
        started = time.monotonic()
        process = subprocess.Popen(command, cwd=cwd, env=environment, stdout=out, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
        out.seek(0)
        text = out.read()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} failed\n{text}")
    return Cost(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, text)


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
        _training_speed(home, environment)
        _recall(environment)
        _null_build(Path(folder), environment)


def _conversion(home: Path, spent: Mapping[str, Cost]) -> None:
    megabytes = (home / "bases" / "smollm2-135m" / "base.F16.gguf").stat().st_size / 1e6
    for stage, name in (("gguf", "conversion"), (STAGES[4], "quantisation")):
        print(f"{name}: {megabytes / spent[stage].cpu:.0f} MB of F16 per CPU second, start-up included")


def _training_speed(home: Path, environment: Mapping[str, str]) -> None:
    (store,) = (home / "store").iterdir()
    facts = json.loads((home / "bases" / "smollm2-135m" / "base.json").read_bytes())
    checkpoint = home / "bases" / "smollm2-135m" / facts["revision"]
    plan = json.loads((store / "plan.json").read_bytes())
    threads = str(plan["threads"])
    fixed = {"OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}
    arguments = [str(checkpoint), str(store / "dataset.json"), str(store / "plan.json")]
    bare = cost([sys.executable, str(HERE / "bare_loop.py"), *arguments], REPOSITORY, {**environment, **fixed})
    slow = json.loads(bare.out)["tokens_per_cpu_s"]
    run = json.loads(next((store / "logs").glob("train-*.jsonl")).read_text().splitlines()[-1])
    ours = run["tokens"] / run["cpu_s"]
    print(f"training: {ours:.0f} tokens per CPU second, bare loop {slow:.0f}: ratio {ours / slow:.2f}")


def _recall(environment: Mapping[str, str]) -> None:
    for name, words in (("base", ["--base"]), ("adapter", []), (QUANT, ["--export", QUANT])):
        found = json.loads(cost([sys.executable, str(HERE / "recall.py"), *words], REPOSITORY, environment).out)
        print(f"recall of the {name}: {found['right']} of {found['of']}")


def _null_build(folder: Path, environment: Mapping[str, str]) -> None:
    doit = str(SCRIPTS / "doit")
    tasks = cost([doit, "list", "--all"], REPOSITORY, environment).out.count("\n")
    plain = folder / "plain"
    plain.mkdir()
    (plain / "dodo.py").write_text(
        f"def task_nothing():\n"
        f"    for n in range({tasks}):\n"
        f"        yield {{'name': str(n), 'actions': None, 'uptodate': [True]}}\n"
    )
    cost([doit], plain, environment)
    ours, theirs = [], []
    quick = []
    for _ in range(21):
        ours.append(cost([doit, f"export:{QUANT}"], REPOSITORY, environment).cpu)
        theirs.append(cost([doit], plain, environment).cpu)
        quick.append(cost([str(SCRIPTS / "dlm"), "build", f"export:{QUANT}"], REPOSITORY, environment).cpu)
    mine, bare = sorted(ours)[10], sorted(theirs)[10]
    print(f"dlm build with nothing to do: {sorted(quick)[10]:.3f} CPU s")
    print(f"null build: {mine:.3f} CPU s, plain doit with {tasks} tasks {bare:.3f}: ratio {mine / bare:.2f}")


if __name__ == "__main__":
    main()
