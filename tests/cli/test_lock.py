"""`dlm lock`, and what the messages about locks say to type: it works."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.workshop import Workshop

pytestmark = pytest.mark.model

DAMAGES = [b"", b"lock_version = ", b"\xff", b"lock_version = 2\n[documents]\n", b"lock_version = 1\ndocuments = 3\n"]


def put(path: Path, content: bytes | None) -> None:
    """Put `content` where `path` is, or a folder for None."""
    path.unlink(missing_ok=True)
    path.mkdir() if content is None else path.write_bytes(content)


@pytest.mark.parametrize("content", DAMAGES)
def test_a_damaged_lock_of_the_project_is_written_anew(built: Workshop, content: bytes) -> None:
    path = built.folder / "dlm.lock"
    built.dlm("lock")
    sound = path.read_bytes()
    put(path, content)
    for words in (["lock", "--check"], ["train"]):
        told = built.dlm(*words, code=1).err
        assert f"{path}: the lock " in told and "dlm lock" in told
    built.follow(told)
    assert path.read_bytes() == sound
    assert built.dlm("train").steps == []


def test_a_folder_in_the_place_of_a_lock(built: Workshop) -> None:
    path = built.folder / "dlm.lock"
    put(path, None)
    for words in (["train"], ["lock", "--check"], ["lock"]):
        told = built.dlm(*words, code=1).err
        assert f"{path}: a folder lies where the lock belongs" in told
    built.follow(told)
    assert path.is_file() and (built.folder / "dlm.lock.old").is_dir()


@pytest.mark.parametrize("content", [*DAMAGES, None, b"lock_version = 1\nbase = 3\n"])
def test_a_lock_of_the_store_comes_back_from_the_record_of_the_training(built: Workshop, content: bytes | None) -> None:
    path = built.store / "dlm.lock"
    sound = path.read_bytes()
    put(path, content)
    if content is None:
        built.follow(built.dlm("lock", code=1).err)
    else:
        built.dlm("lock")
    assert path.read_bytes() == sound
    assert built.dlm("lock", "--check").out == "dlm.lock is as it should be\n"


def test_what_was_trained_without_a_lock_can_be_locked(built: Workshop) -> None:
    (built.store / "dlm.lock").unlink()
    built.edit("tower", "rings in fog", "rings at noon")
    built.dlm("--ignore-lock", "train")
    assert not (built.store / "dlm.lock").exists()
    built.dlm("lock")
    assert "torch" in (built.folder / "dlm.lock").read_text()


def test_what_is_not_trained_says_what_to_type(built: Workshop) -> None:
    (built.store / "built.json").unlink()
    (built.store / "dlm.lock").unlink()
    built.follow(built.dlm("lock", code=1).err)
    built.dlm("lock")


def test_an_empty_lock_before_any_training_is_no_circle(built: Workshop) -> None:
    put(built.folder / "dlm.lock", b"")
    for name in ("built.json", "dlm.lock"):
        (built.store / name).unlink()
    told = built.doit("train", code=1).err
    assert "dlm.lock: the lock is empty: " in told and "None" not in told and "update" not in told
    refused = built.dlm("lock", code=1).err
    assert "tower has not been trained here yet\n  → doit lock=ignore train:tower\n" in refused
    built.follow(refused)
    built.follow(told)
    built.doit("train")


@pytest.mark.parametrize("locked", ["store", "project"])
@pytest.mark.parametrize("mode", ["", "--strict-lock"])
def test_the_command_that_accepts_what_is_here_does(built: Workshop, locked: str, mode: str) -> None:
    path = built.store / "dlm.lock"
    if locked == "project":
        built.dlm("lock")
        path = built.folder / "dlm.lock"
    path.write_text(re.sub(r'torch = "[^"]+"', 'torch = "1.13.0"', path.read_text()))
    built.edit("tower", "rings in fog", "rings at noon")
    words = [mode, "train"] if mode else ["train"]
    told = built.dlm(*words, code=1).err
    assert "pins.torch" in told
    built.follow(told)
    assert built.dlm(*words).steps == []
    assert "1.13.0" not in path.read_text()


def test_broken_documents_are_left_out_in_words(built: Workshop) -> None:
    built.dlm("lock")
    sound = (built.folder / "dlm.lock").read_bytes()
    built.document("bad", more="nonsense: 1\n")
    line = "bad.dlm has mistakes and is left out; `dlm check bad.dlm` says which\n"
    shown = built.dlm("show", "--json")
    assert shown.err == line and json.loads(shown.out).keys() == {"tower"}
    assert built.dlm("lock").err == line
    # The lock of a document that has mistakes for the moment stays.
    (built.folder / "bad.dlm").unlink()
    built.edit("tower", "dlm_version: 15", "dlm_version: 15\nnonsense: 1")
    built.document("new", base="smollm2-135m")
    assert "tower.dlm has mistakes" in built.dlm("lock", code=1).err
    assert (built.folder / "dlm.lock").read_bytes() == sound


def test_a_project_without_documents(workshop: Workshop) -> None:
    for command in ("show", "lock"):
        assert 'no document matches "*.dlm"' in workshop.dlm(command, code=2).err
    assert not (workshop.folder / "dlm.lock").exists()


CHANGED = [
    (r"cores = \d+", 'cores = "many"', "hardware.cores is 'many': it must be of the type int"),
    (r"learning_rate = [\d.e-]+", "learning_rate = true", "recipe.learning_rate is True: it must be of the type float"),
    (r'torch = "[^"]+"', "torch = 2", "changed by hand"),
    (r"(?s)\[[^\n]*base.files\].*?\n\n", "", ""),
    (r'name = "[^"]+"', "name = 3", ""),
]


@pytest.mark.parametrize("locked", ["store", "project"])
@pytest.mark.parametrize(("pattern", "new", "told"), CHANGED, ids=[row[1] or "no files" for row in CHANGED])
def test_a_lock_that_was_changed_by_hand(built: Workshop, locked: str, pattern: str, new: str, told: str) -> None:
    path = built.store / "dlm.lock"
    if locked == "project":
        built.dlm("lock")
        path = built.folder / "dlm.lock"
    text, count = re.subn(pattern, new, path.read_text(), count=1)
    assert count == 1
    path.write_text(text)
    ran = built.dlm("plan", code=None)
    assert "Traceback" not in ran.err and "defect" not in ran.err
    # What cannot be compared in a store's lock counts as none: it only tells of the past.
    if told and (locked, told) != ("store", "changed by hand"):
        assert ran.code == 1 and told in ran.err
        built.follow(ran.err)
        built.dlm("plan")
