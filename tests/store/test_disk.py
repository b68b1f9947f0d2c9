from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest

from dlmbuild.store.disk import disk_error
from dlmbuild.store.layout import Home


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    try:
        raise error from cause
    except Exception as found:
        return found


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "/x"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("I/O error: No space left on device (os error 28)"),
        sqlite3.OperationalError("database or disk is full"),
        raised(RuntimeError("cannot save"), OSError(errno.ENOSPC, "No space left on device")),
    ],
)
def test_a_full_disk(tmp_path: Path, error: Exception) -> None:
    told = disk_error(error, Home(tmp_path))
    assert told is not None and told.what == "the disk is full"
    assert str(tmp_path) in told.do


@pytest.mark.parametrize("below", ["file", "file/below", "/proc/nope", "/dev/null", "x" * 300])
def test_a_home_that_cannot_be_a_folder(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    home = Home(tmp_path / below)
    with pytest.raises(OSError) as caught:
        (home.root / "store").mkdir(parents=True)
    told = disk_error(caught.value, home)
    assert told is not None and told.what == f"{home.root} is no folder and cannot become one"
    assert "set DLM_HOME" in told.do


@pytest.mark.parametrize("number", [errno.ENOTDIR, errno.EEXIST])
def test_something_else_lies_in_the_way(tmp_path: Path, number: int) -> None:
    told = disk_error(OSError(number, os.strerror(number), str(tmp_path / "store")), Home(tmp_path))
    assert told is not None and told.what.startswith(f"{tmp_path / 'store'} cannot be written")


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), OSError(errno.EIO, "boom"), OSError(errno.EEXIST, "x", "/elsewhere")]
)
def test_what_the_disk_is_not_to_blame_for(tmp_path: Path, error: Exception) -> None:
    assert disk_error(error, Home(tmp_path)) is None


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_what_is_forbidden_at_home_and_elsewhere(tmp_path: Path, number: int) -> None:
    home = Home(tmp_path / "home")
    home.root.mkdir()
    for place in (home.root / "store" / "x", home.root, None):
        told = disk_error(OSError(number, os.strerror(number), place and str(place)), home)
        assert told is not None and told.what == f"{place or home.root} cannot be written: {os.strerror(number)}"
        assert told.do.startswith(f"make {home.root} writable")
    for place in (tmp_path / "base" / "model.safetensors", tmp_path / "home of another" / "x"):
        told = disk_error(OSError(number, os.strerror(number), str(place)), home)
        needed = "written" if number == errno.EROFS else "read, written or run"
        assert told is not None and told.what == f"{place} cannot be {needed}: {os.strerror(number)}"
        assert told.do == "check the path and its permissions"


def test_something_in_the_place_of_an_output(tmp_path: Path) -> None:
    (tmp_path / "adapter.gguf").mkdir()
    (tmp_path / ".adapter.gguf.staging").touch()
    with pytest.raises(OSError) as found:
        (tmp_path / ".adapter.gguf.staging").replace(tmp_path / "adapter.gguf")
    told = disk_error(found.value, Home(tmp_path))
    assert told is not None and told.what == f"{tmp_path}/adapter.gguf cannot be written: Is a directory"
