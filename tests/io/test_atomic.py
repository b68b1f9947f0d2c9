from __future__ import annotations

import os
from pathlib import Path

import pytest

from dlmbuild.io.atomic import fsync_tree, staging_folder, sweep_staging, write_atomic


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old content")
    with path.open("rb") as reader:
        write_atomic(path, b"new")
        assert reader.read() == b"old content"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_keeps_the_old_content_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os if call == "fsync" else Path, call, fail)
        with pytest.raises(OSError, match="No space"):
            write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", b"new")
    assert [p.name for p in tmp_path.iterdir()] == []


def test_the_staging_folder_goes_with_the_block(tmp_path: Path) -> None:
    with staging_folder(tmp_path / "place") as folder:
        assert folder.parent == tmp_path / "place"
        (folder / "sub").mkdir()
        (folder / "sub" / "file").write_text("x")
        fsync_tree(folder)
    with pytest.raises(ZeroDivisionError), staging_folder(tmp_path / "place") as folder:
        (folder / "file").write_text("x")
        raise ZeroDivisionError
    assert [p.name for p in (tmp_path / "place").iterdir()] == []


def test_sweeping_takes_what_was_left_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".a.staging").mkdir()
    (tmp_path / ".a.staging" / "file").write_text("x")
    (tmp_path / ".b.staging").write_text("x")
    (tmp_path / ".lock").write_text("")
    (tmp_path / "my.staging").mkdir()
    sweep_staging(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "my.staging"]
    sweep_staging(tmp_path / "nowhere")
