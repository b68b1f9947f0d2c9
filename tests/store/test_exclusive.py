from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dlmbuild.store.exclusive import all_exclusive, exclusive

HOLD = """
import sys, time
from pathlib import Path
from dlmbuild.store.exclusive import exclusive
with exclusive(Path(sys.argv[1]), "train:handbook", print):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(lock: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock until its standard input is closed."""
    command = [sys.executable, "-c", HOLD, str(lock)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdin is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "store" / ".lock"


def test_free_again_after_the_block(lock: Path) -> None:
    said: list[str] = []
    for _ in range(2):
        with exclusive(lock, "train:a", said.append):
            pass
    with pytest.raises(ZeroDivisionError), exclusive(lock, "train:a", said.append):
        raise ZeroDivisionError
    with exclusive(lock, "train:a", said.append):
        pass
    assert said == []
    assert [p.name for p in lock.parent.iterdir()] == [".lock"]


def test_a_second_process_waits_and_says_for_whom(lock: Path) -> None:
    said: list[str] = []
    with holder(lock) as other:
        assert other.stdin is not None

        def waiting(text: str) -> None:
            said.append(text)
            assert other.poll() is None
            other.stdin.close()  # type: ignore[union-attr]  # lets it go on

        with exclusive(lock, "export:handbook:Q8_0", waiting):
            assert other.wait(10) == 0
    assert said == [f"waiting for train:handbook (process {other.pid})"]


def test_a_killed_holder_frees_it(lock: Path) -> None:
    with holder(lock) as other:
        other.send_signal(signal.SIGKILL)
        other.wait(10)
        said: list[str] = []
        with exclusive(lock, "train:a", said.append):
            pass
    assert said == []


def test_threads_of_one_process_exclude_each_other(lock: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        with exclusive(lock, "train:a", lambda text: None):
            inside += 1
            most = max(most, inside)
            time.sleep(0.02)
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_lock_that_cannot_be_written_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError), exclusive(tmp_path / "file" / ".lock", "train:a", print):
        pass


def test_a_lock_is_held_also_where_nothing_can_be_written_beside_it(tmp_path: Path) -> None:
    (tmp_path / "lock.holder").mkdir()
    with exclusive(tmp_path / "lock", "dlm gc", print):
        assert (tmp_path / "lock.holder").is_dir()


def test_folders_that_come_during_the_wait_are_held_too(tmp_path: Path) -> None:
    asked: list[list[Path]] = [[tmp_path / "a"], [tmp_path / "a", tmp_path / "b"]]
    with all_exclusive(lambda: asked.pop(0) if len(asked) > 1 else asked[0], "dlm gc", print):
        assert all((tmp_path / name / ".lock.holder").is_file() for name in ("a", "b"))
