"""doit's own commands and files around our graph: its database, clean, list, Ctrl-C, and the names of documents."""

from __future__ import annotations

import json
import shlex
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from tests.tiny import make_tiny_base
from tests.workshop import Ran, Workshop

pytestmark = pytest.mark.model

UNUSABLE = "this run goes on without it, and without what `doit ignore` was told"


@pytest.fixture
def here(workshop: Workshop) -> Workshop:
    """A project with one document, of which nothing heavier than `check` is built."""
    workshop.document("tower", base="smollm2-135m")
    return workshop


def break_database(path: Path, how: str) -> None:
    path.unlink(missing_ok=True)
    if how == "a folder":
        path.mkdir()
    elif how == "a link to nowhere":
        path.symlink_to("/dev/full/nothing")
    elif how == "a full disk":
        path.symlink_to("/dev/full")
    else:
        with closing(sqlite3.connect(path)) as other:
            other.execute("create table task (something text)")


@pytest.mark.parametrize("how", ["a folder", "a link to nowhere", "a full disk", "another table"])
def test_a_database_that_cannot_be_used_is_done_without(here: Workshop, how: str) -> None:
    path = here.folder / ".doit.db"
    break_database(path, how)
    first = here.doit("check")
    assert first.steps == ["check:tower"]
    again = here.doit("check")
    assert "everything is up to date" in again.out
    for ran in (first, again):
        assert ran.err.count(UNUSABLE) == 1 and ran.err.startswith(".doit.db cannot be used (")
        assert len(ran.err.splitlines()) == 1
    told = here.doit("ignore", "check:tower", code=1).err
    assert ".doit.db: that check:tower is to be ignored cannot be kept: " in told and "Traceback" not in told
    if how != "another table":
        assert "nothing can be forgotten" in here.doit("forget", "--all", code=1).err


def test_a_locked_database_is_neither_deleted_nor_waited_for_long(here: Workshop) -> None:
    here.doit("check")
    here.doit("ignore", "check:tower")
    path = here.folder / ".doit.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("begin exclusive")
        ran = here.doit("list")
        assert "database is locked" in ran.err and "Traceback" not in ran.err
        other.execute("rollback")
    assert "check:tower  ignored" in here.doit("check").out


def test_a_damaged_database_begins_afresh(here: Workshop) -> None:
    path = here.folder / ".doit.db"
    here.doit("check")
    for content in (b"no database at all, but long enough to be asked about it" * 20, path.read_bytes()[:5000]):
        path.write_bytes(content)
        ran = here.doit("check")
        assert "Traceback" not in ran.err and "everything is up to date" in ran.out
    here.doit("ignore", "check:tower")
    assert "check:tower  ignored" in here.doit("check").out


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Q8_0", 'Q8_0.dlm: a document cannot be called "Q8_0": `doit Q8_0` means a quantisation'),
        ("export", 'export.dlm: a document cannot be called "export": `doit export` means a task'),
        ("list", 'list.dlm: a document cannot be called "list": `doit list` means a command'),
        ("a=b", 'a=b.dlm: a document cannot be called "a=b"'),
        ("*", '*.dlm: a document cannot be called "*"'),
        ("tower:Q8_0", 'tower:Q8_0.dlm: a document cannot be called "tower:Q8_0"'),
        ("\udcff", "a document cannot be called"),
        ("smollm2-135m", "smollm2-135m.dlm:2:1"),  # named after a base, and with another mistake
    ],
    ids=ascii,
)
def test_a_document_with_a_name_that_means_something_else_is_refused_alone(
    here: Workshop, name: str, told: str
) -> None:
    make_tiny_base(here.folder / "base")
    here.edit("tower", "smollm2-135m", "file:./base")
    path = here.document(name)
    if name == "smollm2-135m":
        path.write_text("---\nnonsense\n---\n")
    assert "Traceback" not in here.doit("why", code=1).err
    assert here.doit("plan:tower").steps[-1] == "plan:tower"
    for words in (["plan"], ["check"]):
        dry = here.doit(*words, code=1)
        assert dry.err.count("✗") == 1 and told in dry.err and "Traceback" not in dry.err
    assert "export:tower:Q8_0" in here.doit("list", "--all").out


SLOW = """
import time

def wait():
    print("waiting", flush=True)
    time.sleep(3)  # a thread is waited for

def task_slow():
    return {"actions": [(wait,)], "io": {"capture": False}}
"""


@pytest.mark.parametrize("words", [[], ["-n", "2"]], ids=["one at a time", "two at a time"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_claims_nothing(here: Workshop, words: list[str], number: int) -> None:
    here.doit("check")
    with (here.folder / "dodo.py").open("a") as file:
        file.write(SLOW)
    process = here.start("doit", *words, "check", "slow")
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: -signal.SIGINT, signal.SIGTERM: 143}[signal.Signals(number)]
    how = "interrupted" if number == signal.SIGINT else "terminated"
    assert out == "" and err == f"\n{how}; what was finished is kept, `doit` carries on from there\n"


def test_ignored_steps_are_not_called_up_to_date(here: Workshop) -> None:
    here.doit("check", "base")
    here.doit("ignore", "check:tower")
    ran = here.doit("check", "base")
    assert "everything" not in ran.out
    assert "- check:tower  ignored (doit forget check:tower takes it back)\n" in ran.out
    assert ran.out.endswith("what is not ignored is up to date (1 steps)\n")
    assert "- plan:tower  ignored with check:tower\n" in here.doit("plan").out
    here.doit("forget", "check:tower")
    assert here.doit("check", "base").out == "everything is up to date (2 steps)\n"


@pytest.mark.parametrize(
    "content", [b"", b"lock_version = ", b"\xff", None], ids=["empty", "cut", "binary", "a folder"]
)
def test_a_damaged_lock_is_told_where_it_is_read(here: Workshop, content: bytes | None) -> None:
    path = here.folder / "dlm.lock"
    path.mkdir() if content is None else path.write_bytes(content)
    told = here.doit("plan", code=1).err
    assert f"{path}: " in told and "dlm lock" in told.splitlines()[-1] and "Traceback" not in told
    assert here.doit("lock=ignore", "plan").steps == ["plan:tower"]


def test_clean_of_an_alias_removes_what_it_stands_for_and_nothing_foreign(built: Workshop) -> None:
    export = built.store / "exports" / "Q4_K_M"
    made = sorted(export.iterdir())
    notes, folder, beside = export / "notes.txt", export / "mine", export.parent / "also mine"
    for path in (notes, beside):
        path.write_text("mine")
    folder.mkdir()
    assert "removing" not in built.doit("clean", "export:Q8_0").out
    kept = "".join(f"keeping, because no build made it: {path}\n" for path in (folder, notes, beside))
    for words in (["export:Q4_K_M"], ["export:tower"], ["export:tower:Q4_K_M"], ["export"], []):
        dry = built.doit("clean", "-n", *words).out
        assert [line for line in dry.splitlines() if line.startswith("would")] == [f"would remove {p}" for p in made]
        assert kept in dry and sorted({*export.iterdir()} - {notes, folder}) == made
        ran = built.doit("clean", *words).out
        assert [line for line in ran.splitlines() if line.startswith("removing")] == [f"removing {p}" for p in made]
        assert kept in ran and sorted(export.iterdir()) == [folder, notes] and beside.exists()
        assert built.doit("export:Q4_K_M").restored == ["export:tower:Q4_K_M"]
    notes.unlink()
    folder.rmdir()
    beside.unlink()
    built.doit("clean", "export:tower")
    assert not export.parent.exists()


def test_the_commands_of_a_summary_are_quoted(built: Workshop, tmp_path: Path) -> None:
    moved = Workshop(built.folder, tmp_path / "it's a home")
    built.home.rename(moved.home)
    moved.doit("clean")
    out = moved.doit("export:Q4_K_M").out
    store = moved.store / "exports" / "Q4_K_M"
    (line,) = (line for line in out.splitlines() if "llama-server" in line)
    assert shlex.split(line)[-2:] == ["sh", str(store / "llama-server.sh")]
    (line,) = (line for line in out.splitlines() if "ollama create" in line)
    assert str(store / "Modelfile") in shlex.split(line)


def states(ran: Ran) -> dict[str, str]:
    return {line.split()[1]: line.split()[0] for line in ran.out.splitlines()}


def test_list_knows_the_state_of_groups_and_aliases(built: Workshop) -> None:
    fresh = states(built.doit("list", "--all", "--status"))
    expected = dict.fromkeys(("check", "base", "train", "parity", "export", "export:tower", "export:Q4_K_M"), "U")
    assert {name: fresh[name] for name in expected} == expected
    assert {fresh[name] for name in ("merge", "smoke", "export:Q8_0", "export:tower:Q8_0", "quantize")} == {"R"}
    assert states(built.dlm("list", "--status"))["export"] == "U"
    built.edit("tower", "rings in fog", "rings at noon")
    edited = states(built.doit("list", "--all", "--status"))
    assert {edited[name] for name in ("check", "check:tower", "train", "export", "export:tower")} == {"R"}
    assert edited["base"] == "U"
    built.doit("ignore", "base")
    assert states(built.doit("list", "-s", "base"))["base"] == "I"


@pytest.mark.parametrize("pattern", ["*.dml", "sub/*.dlm"])
def test_a_pattern_that_nothing_matches_is_told(workshop: Workshop, pattern: str) -> None:
    dodo = f"from dlmbuild.rules import project\nglobals().update(project({pattern!r}))\n"
    (workshop.folder / "dodo.py").write_text(dodo)
    told = f'no document matches "{pattern}" in {workshop.folder}'
    why = "this is what dodo.py gives to project(…)"
    for words in ([], ["export:Q4_K_M"], ["train"], ["-n", "2"]):
        ran = workshop.doit(*words, code=1)
        assert told in ran.err and "→ write one there, or begin a project: dlm init mybook" in ran.err
        assert ran.err.count("✗") == 1 and "Traceback" not in ran.err
    for words in (["list"], ["list", "--all", "--status"]):
        assert workshop.doit(*words).err == told + "\n"
    assert told in workshop.doit("why", code=1).out
    for command in (["show"], ["metrics"], ["lock"], ["prompt", "book", "Who?"]):
        assert workshop.dlm(*command, code=2).err.startswith(f"{told}: {why}\n  → write one there")
    workshop.document("book")
    for script, words in (("doit", []), ("dlm", ["show"])):
        err = workshop.run(script, *words, code=None).err
        assert f"{told}: {why}, and book.dlm is not named so\n" in err and '→ write project("*.dlm") in dodo.py' in err


def test_a_project_of_nothing_is_told(workshop: Workshop) -> None:
    (workshop.folder / "dodo.py").write_text("from dlmbuild.rules import project\nglobals().update(project())\n")
    told = workshop.doit("list", code=None).err
    assert 'project() in dodo.py names no documents\n  → write project("*.dlm")' in told and "Traceback" not in told


@pytest.mark.parametrize("pattern", ["", "/somewhere/*.dlm"])
def test_a_pattern_that_is_none_is_told(workshop: Workshop, pattern: str) -> None:
    dodo = f"from dlmbuild.rules import project\nglobals().update(project({pattern!r}))\n"
    (workshop.folder / "dodo.py").write_text(dodo)
    told = workshop.doit("list", code=None).err
    assert f"project({pattern!r}) in dodo.py: this is no pattern for files below" in told and "Traceback" not in told


def test_an_interrupt_before_the_graph_is_one_line(here: Workshop) -> None:
    (here.folder / "dodo.py").write_text("from dlmbuild.rules import project\nraise KeyboardInterrupt\n")
    ran = here.doit("check", code=None)
    assert ran.code and ran.err == "\ninterrupted; what was finished is kept, `doit` carries on from there\n"


@pytest.mark.parametrize("words", [("nosuch*",), ("run", "export:zz*")])
def test_a_pattern_that_matches_no_task_is_refused(built: Workshop, words: tuple[str, ...]) -> None:
    refused = built.doit(*words, code=3)
    told = f"no task matches {words[-1]}\n  → doit list --all shows them\n"
    assert f"ERROR: {told}" in refused.err and "Traceback" not in refused.err
    assert built.dlm(*words, code=2).err == told
    assert f"ERROR: {told}" in built.doit("export:*", *words[-1:], code=3).err


def test_a_manifest_that_cannot_be_read_is_kept_aside(built: Workshop) -> None:
    (built.store / "manifest.json").write_text("garbage")
    built.edit("tower", "rings in fog", "rings at noon")
    built.doit("train")
    assert (built.store / "manifest.json.damaged").read_text() == "garbage"


def test_a_dodo_file_that_lost_its_project_is_named(workshop: Workshop) -> None:
    make_tiny_base(workshop.folder / "base")
    workshop.document("tower")
    workshop.doit("check")
    (workshop.folder / "dodo.py").write_text("")
    for words in ([], ["list"]):
        assert "dodo.py declares no project" in workshop.dlm(*words, code=2).err


def test_long_texts_say_how_far_they_are(built: Workshop) -> None:
    built.edit("tower", "grey granite.\n", "grey granite.\n\n" + "Ships wait in fog until the bell rings.\n\n" * 2000)
    assert "  dataset:tower  turning text into tokens\n" in built.doit("dataset").out
    built.edit("tower", "base_model", "training: {sources: [{path: texts, include: ['*.txt']}]}\nbase_model")
    (built.folder / "texts").mkdir()
    for number in range(3):
        (built.folder / "texts" / f"{number}.txt").write_text("The tide turns twice a day.\n")
    assert "  dataset:tower  turning source files into tokens\n" in built.doit("dataset").out


def test_show_has_the_numbers_of_a_restored_adapter(built: Workshop) -> None:
    first = json.loads(built.dlm("show", "--json").out)["tower"]
    built.edit("tower", "rings in fog", "rings at noon, and at night")
    assert "train:tower" in built.doit("train").steps
    second = json.loads(built.dlm("show", "--json").out)["tower"]
    assert second["trainings"] == 2 and second["train_loss"] != first["train_loss"]
    built.edit("tower", "rings at noon, and at night", "rings in fog")
    assert "train:tower" in built.doit("train").restored
    shown = json.loads(built.dlm("show", "--json").out)["tower"]
    for name in ("adapter_version", "trained", "train_loss"):
        assert shown[name] == first[name] is not None
    assert (shown["trainings"], shown["last_run"]) == (2, "ok")
