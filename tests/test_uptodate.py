"""The note of a build that had nothing to do: whatever could make it untrue is seen."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from dlmbuild.rules.graph import STAGES

from dlmbuild.build.checker import VERBS
from tests.history import History
from tests.workshop import Workshop

OWN = """
def task_own():
    return {"actions": ["cp template.txt out.txt"], "file_dep": ["template.txt"], "targets": ["out.txt"]}
"""


@pytest.fixture
def shop(tmp_path: Path) -> Workshop:
    """A built project whose last run has left a note."""
    history = History(tmp_path, 0)
    plain = 'from dlmbuild.rules import project\nglobals().update(project("*.dlm"))\n'
    assert history.build() == ""
    (history.shop.folder / "dodo.py").write_text(plain)
    for _ in range(2):
        assert history.shop.doit().steps == []
    return history.shop


def up_to_date(shop: Workshop, **environment: str) -> list[bool]:
    ran = [shop.dlm("build", code=None, **environment), shop.doit(code=None, **environment)]
    return ["everything is up to date" in one.out for one in ran]


def test_a_true_note_answers_without_the_graph(shop: Workshop) -> None:
    for script in ("doit", "dlm"):
        words = ("build",) if script == "dlm" else ()
        ran = shop.run(script, *words, PYTHONPROFILEIMPORTTIME="1")
        assert "everything is up to date" in ran.out and "dlmbuild.build.project" not in ran.err


def add_a_link(shop: Workshop) -> None:
    (shop.folder.parent / "outside.json").write_text("{}")
    (shop.folder / "base" / "extra.json").symlink_to(shop.folder.parent / "outside.json")


def edit_the_lock(shop: Workshop) -> None:
    (lock,) = shop.home.glob("store/*/dlm.lock")
    lock.write_text(lock.read_text().replace("cores = ", "cores = 1"))


SEEN: dict[str, Callable[[Workshop], object]] = {
    "a file in the base folder": lambda shop: (shop.folder / "base" / "generation_config.json").write_text("{}"),
    "a link out of the base folder": add_a_link,
    "the lock of the store": edit_the_lock,
    "another dodo.py": lambda shop: (shop.folder / "dodo.py").write_text(
        'from dlmbuild.rules import project\nglobals().update(project("no/*.dlm"))\n'
    ),
}


@pytest.mark.parametrize("what", SEEN)
def test_what_changes_is_seen(shop: Workshop, what: str) -> None:
    SEEN[what](shop)
    assert up_to_date(shop)[0] is False  # and then it is brought up to date


def test_a_folder_that_becomes_a_document_is_seen(shop: Workshop) -> None:
    (shop.folder / "late.dlm").mkdir()
    shop.doit("check")
    shop.doit("check")
    (shop.folder / "late.dlm").rmdir()
    text = (shop.folder / "tower.dlm").read_text()
    (shop.folder / "late.dlm").write_text(text.replace("01HZX3Q5J8K9M2N4P6R8T0V2W4", "01HZX3Q5J8K9M2N4P6R8T0V2W5"))
    assert "check:late" in shop.doit("check").steps


def test_the_environment_and_the_machine_are_part_of_the_note(shop: Workshop) -> None:
    assert shop.doit(code=None, DLM_PRE_TOKENIZER="abc=llama-bpe").steps != []
    assert up_to_date(shop, DLM_LOCK="ignore") == [False, True]  # another note, which is written now


def test_a_dodo_file_that_computes_is_always_run(shop: Workshop) -> None:
    (shop.folder / "dodo.py").write_text(
        'import os\nfrom dlmbuild.rules import project\nglobals().update(project(os.environ.get("WHAT", "*.dlm")))\n'
    )
    for _ in range(3):
        shop.doit()
    assert "everything is up to date" not in shop.dlm("build", code=None, WHAT="no/*.dlm").out


def test_tasks_of_the_persons_own_are_compared_as_doit_does(shop: Workshop) -> None:
    with (shop.folder / "dodo.py").open("a") as dodo:
        dodo.write(OWN)
    template, out = shop.folder / "template.txt", shop.folder / "out.txt"
    for content in ("old", "new, and longer"):
        template.write_text(content)
        shop.doit("own")
        assert out.read_text() == content
        os.utime(template)
        out.write_text("kept")
        shop.doit("own")
        assert out.read_text() == "kept"  # its input says what it said
    assert "which doit decides about" in shop.doit("why", "own", code=None).out


def test_the_verbs_are_those_of_the_stages() -> None:
    assert {stage.__name__.rpartition(".")[2] for stage in STAGES} == VERBS
