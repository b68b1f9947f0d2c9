from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from dlmbuild.errors import DataError, JobError, MissingExtra, StoreError, Where
from dlmbuild.jobs.environment import job_environment, may_fork
from dlmbuild.jobs.forkserver import INHERITED, _end, _servers, loading_key, served
from dlmbuild.jobs.local import require_extra, run_job
from dlmbuild.jobs.table import JOBS, LOADED

WORK = """
import os, signal, sys, time
from pathlib import Path
from dlmbuild.errors import DataError, Where

def echo(*, document, word, out, progress):
    progress("echoing")
    (out / "echo.txt").write_text(document.read_text() + word)
    return {"word": word, "threads": os.environ["OMP_NUM_THREADS"]}

COUNT = 0

def loaded(*, out, progress):
    global COUNT
    COUNT += 1
    process = {"parent": os.getppid(), "group": os.getpgid(0), "folder": os.getcwd()}
    return {"before": "colorsys" in sys.modules, "number": COUNT, "home": os.environ.get("DLM_HOME"), **process}

def one_file(*, out, progress):
    out.write_text("x")
    return {}

def mistake(*, out, progress):
    raise DataError("too long", where=Where("a.dlm", 7, 2), why="it is", do="shorten it")

def bug(*, out, progress):
    print("before the bug")
    raise RuntimeError("this is a bug")

def chatty_bug(*, out, progress):
    import atexit
    atexit.register(print, "a library says goodbye")
    try:
        raise KeyError("first")
    except KeyError as error:
        print("a library logs", file=sys.stderr)
        raise ValueError("of two\\nlines") from error

def full_disk(*, words, out, progress):
    class SafetensorError(Exception):
        pass
    raise SafetensorError(words)

def leave(*, out, progress):
    sys.exit(3)

def die(*, number, out, progress):
    progress("about to die")
    os.kill(os.getpid(), number)
    time.sleep(30)

def half_a_line(*, out, progress):
    for fd in range(3, 20):  # the pipe to the build is none of the three standard ones
        if os.path.exists(f"/proc/self/fd/{fd}") and os.readlink(f"/proc/self/fd/{fd}").startswith("pipe:"):
            os.write(fd, b'{"event": "resu')
    os.kill(os.getpid(), signal.SIGKILL)

def noisy(*, out, progress):
    print("python says hello")
    os.write(1, b"native code says hello\\n")
    print('{"event": "result", "result": "forged"}', flush=True)
    progress("working", 1, 2, loss=0.5)
    os.write(2, b"an error stream\\n")
    return {"quiet": False}

def often(*, out, progress):
    for step in range(10001):
        progress("counting", step, 10000)
    return {}

def large(*, out, progress):
    return {"text": "ä\\n" * 1_000_000}

def unspeakable(*, out, progress):
    return {"path": Path("x")}

def sleep(*, out, progress):
    out.with_name("pid").write_text(str(os.getpid()))
    progress("sleeping")
    time.sleep(60)
"""

NAMES = [
    "echo",
    "loaded",
    "one_file",
    "mistake",
    "bug",
    "chatty_bug",
    "full_disk",
    "leave",
    "die",
    "half_a_line",
    "noisy",
    "often",
    "large",
    "unspeakable",
    "sleep",
]


FORKS = pytest.mark.skipif(not may_fork(), reason="jobs are forked on Linux, where no accelerator is")


@pytest.fixture(params=["a new process", pytest.param("a forked one", marks=FORKS)])
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """Where the child finds the jobs of this test beside the real ones."""
    if request.param == "a forked one":
        for name in (*NAMES, "no_such_job"):
            monkeypatch.setitem(LOADED, name, ("json", "no_such_module"))
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "jobs_of_tests.py").write_text(WORK)
    (tmp_path / "work" / "sitecustomize.py").write_text(
        f"from dlmbuild.jobs.table import JOBS\nJOBS.update({{name: 'jobs_of_tests:' + name for name in {NAMES}}})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "work"))
    (tmp_path / "out").mkdir()
    return tmp_path


def run(folder: Path, name: str, **given: Any) -> dict[str, Any]:
    job: dict[str, Any] = {"inputs": {}, "params": {}, "out": folder / "out", "log": folder / "logs" / "job.log"}
    return run_job(name, **{**job, **given})


def log(folder: Path) -> str:
    return (folder / "logs" / "job.log").read_text()


def gone(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def eventually(condition: Any, seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


def test_a_result_and_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "doc.txt").write_text("hello ")
    monkeypatch.chdir(folder)
    told: list[str] = []
    result = run(
        folder,
        "echo",
        inputs={"document": Path("doc.txt")},
        params={"word": "wörld"},
        threads=3,
        progress=lambda what, *_, **__: told.append(what),
    )
    assert result == {"word": "wörld", "threads": "3"}
    assert told[-1] == "echoing"
    assert [(p.name, p.read_text()) for p in (folder / "out").iterdir()] == [("echo.txt", "hello wörld")]


def test_a_job_that_makes_one_file_gets_its_path(folder: Path) -> None:
    run(folder, "one_file", file="model.gguf")
    assert [p.name for p in (folder / "out").iterdir()] == ["model.gguf"]


def test_a_mistake_crosses_with_its_class_and_position(folder: Path) -> None:
    with pytest.raises(DataError) as caught:
        run(folder, "mistake")
    assert (
        caught.value.as_data()
        == DataError("too long", where=Where("a.dlm", 7, 2), why="it is", do="shorten it").as_data()
    )


def test_a_bug_lands_in_the_log(folder: Path) -> None:
    with pytest.raises(JobError) as caught:
        run(folder, "bug")
    assert caught.value.what == "the job 'bug' died (exit code 1)"
    assert caught.value.why == "RuntimeError: this is a bug"
    assert str(folder / "logs" / "job.log") in caught.value.do
    assert "before the bug" in log(folder) and "Traceback" in log(folder)


def test_the_exception_is_told_and_not_the_last_line_of_the_log(folder: Path) -> None:
    with pytest.raises(JobError) as caught:
        run(folder, "chatty_bug")
    assert caught.value.why == "ValueError: of two\nlines"
    assert "a library logs" in log(folder) and "KeyError: 'first'" in log(folder)


@pytest.mark.parametrize(
    "words",
    [
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "Disk quota exceeded (os error 122)",
        "database or disk is full",
        "[enforce fail at inline_container.cc:672] . unexpected pos 77184 vs 77072",
    ],
)
def test_a_full_disk_in_the_words_of_a_library(folder: Path, words: str) -> None:
    with pytest.raises(StoreError, match="the disk is full") as caught:
        run(folder, "full_disk", params={"words": words})
    assert "free some space" in caught.value.do and "SafetensorError" in log(folder)


@pytest.mark.parametrize("name", ["leave", "unspeakable", "no_such_job"])
def test_a_job_that_ends_without_a_result(folder: Path, name: str) -> None:
    with pytest.raises(JobError, match=rf"the job '{name}' died \(exit code 1\)"):
        run(folder, name)


@pytest.mark.parametrize(("number", "why"), [(signal.SIGKILL, "out of memory"), (signal.SIGSEGV, "it said nothing")])
def test_death_by_signal(folder: Path, number: signal.Signals, why: str) -> None:
    with pytest.raises(JobError, match=rf"died \(signal {number.name}\)") as caught:
        run(folder, "die", params={"number": int(number)})
    assert why in caught.value.why


def test_death_in_the_middle_of_a_line(folder: Path) -> None:
    with pytest.raises(JobError, match="SIGKILL"):
        run(folder, "half_a_line")


def test_what_libraries_print_disturbs_nothing(folder: Path) -> None:
    told: list[Any] = []
    result = run(folder, "noisy", progress=lambda *event, **numbers: told.append((event, numbers)))
    assert result == {"quiet": False}
    assert told[-1] == (("working", 1, 2), {"loss": 0.5})
    for text in ("python says hello", "native code says hello", "forged", "an error stream"):
        assert text in log(folder)


def test_progress_is_told_at_most_now_and_then(folder: Path) -> None:
    told: list[Any] = []
    run(folder, "often", progress=lambda what, done=0.0, total=0.0, **_: told.append((done, total)))
    assert (0, 10000) in told[:2] and told[-1] == (10000, 10000)
    assert len(told) < 100


def test_a_large_result(folder: Path) -> None:
    assert run(folder, "large") == {"text": "ä\n" * 1_000_000}


def test_an_interrupted_build_ends_its_job(folder: Path) -> None:
    def interrupt(what: str, *_: Any, **__: Any) -> None:
        if what == "sleeping":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(folder, "sleep", progress=interrupt)
    assert gone(int((folder / "pid").read_text()))


def test_a_killed_build_takes_its_job_along(folder: Path) -> None:
    build = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from dlmbuild.jobs.local import LOADED, run_job\n"
            f"LOADED['sleep'] = {LOADED.get('sleep')!r}; LOADED['sleep'] or LOADED.pop('sleep')\n"
            "folder = Path(sys.argv[1])\n"
            "run_job('sleep', inputs={}, params={}, out=folder / 'out', log=folder / 'job.log')",
            str(folder),
        ]
    )
    pid_file = folder / "pid"
    assert eventually(lambda: pid_file.exists() and pid_file.read_text())
    pid = int(pid_file.read_text())
    assert not gone(pid)
    build.send_signal(signal.SIGKILL)
    build.wait(10)
    assert eventually(lambda: gone(pid))


def test_two_jobs_at_once(folder: Path) -> None:
    results: list[dict[str, Any]] = []
    (folder / "doc.txt").write_text("")

    def work(number: int) -> None:
        out = folder / str(number)
        out.mkdir()
        given = {"inputs": {"document": folder / "doc.txt"}, "params": {"word": str(number)}}
        results.append(run(folder, "echo", out=out, log=out.with_suffix(".log"), **given))

    threads = [threading.Thread(target=work, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result["word"] for result in results) == ["1", "2"]


@FORKS
def test_forked_jobs_share_what_was_loaded_and_nothing_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("loaded", "die"):
        monkeypatch.setitem(LOADED, name, ("colorsys",))
    before = set(_servers)
    first, second = run(folder, "loaded"), run(folder, "loaded")
    assert first["before"] and second["before"] and first["parent"] == second["parent"] != os.getpid()
    assert first["number"] == second["number"] == 1  # counted in a process of its own each time
    assert first["group"] != second["group"]
    with pytest.raises(JobError, match="SIGKILL"):
        run(folder, "die", params={"number": int(signal.SIGKILL)})
    assert run(folder, "loaded")["parent"] == first["parent"]
    os.kill(first["parent"], signal.SIGKILL)
    assert run(folder, "loaded")["parent"] != first["parent"]
    assert len(set(_servers) - before) == 1
    assert run(folder, "loaded", threads=2)["parent"] != first["parent"]


@FORKS
def test_a_build_inherits_a_server_for_its_environment_and_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LOADED, "loaded", ("colorsys",))
    monkeypatch.setenv("DLM_HOME", "/before")
    monkeypatch.setenv("ANOTHER", "environment")
    environment = job_environment(threads=1, network=False)
    process, control = served(environment)
    with control, (folder / "file").open("w") as file:
        key = loading_key(environment)
        monkeypatch.setenv(INHERITED, f"{file.fileno()}:{key},none:{key},{control.fileno()}:{key}")
        monkeypatch.setenv("DLM_HOME", "/after")
        monkeypatch.chdir(folder)
        ran = run(folder, "loaded")
        assert (ran["parent"], ran["folder"], ran["home"]) == (process.pid, str(folder), "/after")
        assert run(folder, "loaded", threads=2)["parent"] != process.pid
        monkeypatch.setenv("ANOTHER", "one")
        assert run(folder, "loaded")["parent"] != process.pid
    _end(key)
    assert process.wait(10) == 0


def test_missing_packages_are_named_with_what_installs_them() -> None:
    require_extra("json")
    with pytest.raises(MissingExtra, match="this needs no_such_package_a, no_such_package_b") as caught:
        require_extra("json", "no_such_package_a", "no_such_package_b")
    assert "pip install 'dlmbuild[train]'" in caught.value.do


@pytest.mark.parametrize("name", sorted(JOBS))
def test_every_job_is_there_and_takes_what_every_job_is_given(name: str) -> None:
    import ast

    module, function = JOBS[name].split(":")
    root = Path(__file__).parents[2]
    tree = ast.parse((root / (module.replace(".", os.sep) + ".py")).read_text())
    [found] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function]
    assert {"out", "progress"} <= {argument.arg for argument in (*found.args.args, *found.args.kwonlyargs)}
