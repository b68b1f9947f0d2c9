"""What a build with nothing to do costs at some 50, 100, 1,000 and 5,000 tasks, here and in other build tools.

    python -m tests.bench.null [--others]

The other tools are doit itself, with as many tasks that do nothing and with the very same tasks, files and targets, and
with --others DVC and Snakemake, installed into environments of their own. Documents are built with jobs that only write
digests: records and graph are the real ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median

from dlmbuild.io.ulid import new_ulid
from tests.bench.cost import SCRIPTS, cost
from tests.history import write_dodo
from tests.tiny import make_tiny_base
from tests.workshop import BODY, HEAD

DOCUMENTS = (1, 4, 38, 200)
ROUNDS = {1: 21, 4: 21, 38: 11, 200: 5}
DVC_TASKS = 100
"""DVC rewrites its whole lock file after each stage: a first build of 1,000 takes most of an hour."""

PLAIN = """
def task_nothing():
    for number in range({tasks}):
        yield {{"name": str(number), "actions": None, "uptodate": [True]}}
"""
SAME = """
def task_same():
    yield from TASKS

TASKS = {graph!r}
DOIT_CONFIG = {{"default_tasks": {default!r}, "dep_file": ".same.db"}}
"""
GRAPH = """
import json
from dlmbuild.rules import project

kept = ("basename", "name", "file_dep", "targets", "task_dep")
tasks, default = [], []
for task in project("*.dlm")["task_documents"]():
    if isinstance(task, dict):
        tasks.append({name: task[name] for name in kept if name in task})
        if "file_dep" in task or task.get("name"):
            tasks[-1]["actions"] = None
    else:
        default += task.task_dep
print(json.dumps([tasks, default]))
"""
"""Prints the graph of a project as plain tasks, and the names of those that `doit` alone builds."""
REAL = "from dlmbuild.rules import project\nglobals().update(project('*.dlm'))\n"


def null_builds(others: bool) -> None:
    """Print a line for each number of documents, and for each other tool."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryDirectory() as scratch:
        for documents in DOCUMENTS:
            folder = Path(scratch) / str(documents)
            mine = {**environment, "DLM_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1"}
            tasks = _documents(folder / "ours", documents, mine)
            (folder / "plain").mkdir()
            (folder / "plain" / "dodo.py").write_text(PLAIN.format(tasks=tasks))
            graph, default = json.loads(cost([sys.executable, "-c", GRAPH], folder / "ours", mine).out)
            (folder / "ours" / "same.py").write_text(SAME.format(graph=graph, default=default))
            commands = {
                "doit": ([str(SCRIPTS / "doit")], folder / "ours", mine),
                "plain": ([str(SCRIPTS / "doit")], folder / "plain", environment),
                "same": ([str(SCRIPTS / "doit"), "-f", "same.py"], folder / "ours", environment),
                "dlm build": ([str(SCRIPTS / "dlm"), "build"], folder / "ours", mine),
                "python": ([sys.executable, "-c", "pass"], folder, environment),
            }
            took = _medians(commands, ROUNDS[documents])
            doit, plain, same = took["doit"], took["plain"], took["same"]
            print(
                f"null build of {documents} documents, {tasks} tasks: doit {doit:.3f} CPU s, "
                f"plain doit with the same tasks {same:.3f} (ratio {doit / same:.2f}), with tasks without files "
                f"{plain:.3f} ({doit / plain:.2f}); dlm build {took['dlm build']:.3f}, "
                f"python -c pass {took['python']:.3f} ({took['dlm build'] / took['python']:.2f})",
                flush=True,
            )
        if others:
            for tool, counts in (("snakemake", (10, 100, 1000)), ("dvc", (10, DVC_TASKS))):
                _other(tool, counts, Path(scratch) / tool, environment)


def _medians(commands: Mapping[str, tuple[list[str], Path, Mapping[str, str]]], rounds: int) -> dict[str, float]:
    """CPU seconds of each command; rounds are interleaved, because the machine has better and worse minutes."""
    found: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            spent = cost(*command).cpu
            if number:  # the first one writes caches
                found[name].append(spent)
    return {name: median(times) for name, times in found.items()}


def _documents(folder: Path, count: int, environment: Mapping[str, str]) -> int:
    """Build so many documents; returns the number of tasks, as `doit list --all` has them."""
    make_tiny_base(folder / "base")
    write_dodo(folder)
    for number in range(count):
        text = HEAD.format(dlm_id=new_ulid(), base="file:./base", more="")
        (folder / f"book{number:03d}.dlm").write_text(text + BODY.replace("grey", f"grey {number}"))
    doit = str(SCRIPTS / "doit")
    cost([doit], folder, environment)
    (folder / "dodo.py").write_text(REAL)
    cost([doit], folder, environment)
    return cost([doit, "list", "--all"], folder, environment).out.count("\n")


def _other(tool: str, counts: Iterable[int], folder: Path, environment: Mapping[str, str]) -> None:
    venv.create(folder, with_pip=True)
    install = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", tool]
    if subprocess.run(install, capture_output=True, check=False).returncode:
        print(f"{tool}: cannot be installed here")
        return
    found = {**environment, "PATH": f"{folder / 'bin'}:{environment['PATH']}"}
    for count in counts:
        project = folder / f"project{count}"
        project.mkdir()
        took = (_snakemake if tool == "snakemake" else _dvc)(project, count, found)
        print(f"null build of {count} tasks in {tool}: {took:.3f} CPU s", flush=True)


def _snakemake(project: Path, count: int, environment: Mapping[str, str]) -> float:
    (project / "source").write_text("text")
    (project / "Snakefile").write_text(
        f'rule all:\n    input: expand("out{{n}}", n=range({count}))\n'
        'rule one:\n    input: "source"\n    output: "out{n}"\n    shell: "echo made > {output}"\n'
    )
    command = ["snakemake", "--cores", "2", "--quiet", "all"]
    cost(command, project, environment)
    return median(cost(command, project, environment).cpu for _ in range(3))


def _dvc(project: Path, count: int, environment: Mapping[str, str]) -> float:
    cost(["dvc", "init", "--no-scm", "--quiet"], project, environment)
    (project / "source").write_text("text")
    stages = "".join(
        f"  s{n}:\n    cmd: echo {n} > out{n}\n    deps: [source]\n    outs: [out{n}]\n" for n in range(count)
    )
    (project / "dvc.yaml").write_text("stages:\n" + stages)
    command = ["dvc", "repro", "--quiet"]
    cost(command, project, environment)
    return median(cost(command, project, environment).cpu for _ in range(3))


if __name__ == "__main__":
    null_builds("--others" in sys.argv)
