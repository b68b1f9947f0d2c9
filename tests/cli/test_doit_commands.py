"""Every word that is not ours goes to doit, and comes back with our exit codes."""

from __future__ import annotations

import pytest

from tests.workshop import Workshop


@pytest.fixture
def here(workshop: Workshop) -> Workshop:
    """A project with one document."""
    workshop.document("tower", base="smollm2-135m")
    return workshop


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["list", "--all", "--status"],
        ["check:tower"],
        ["forget", "-a"],
        ["forget", "check:tower"],
        ["ignore", "train:tower"],
        ["clean"],
        ["clean", "-n", "export"],
        ["help"],
    ],
    ids=" ".join,
)
def test_commands_of_doit_work(here: Workshop, words: list[str]) -> None:
    assert here.dlm(*words, code=0).err == ""


def test_a_failed_task_is_1(here: Workshop) -> None:
    here.edit("tower", "### A", "### B")
    assert "✗ check:tower" in here.dlm("check:tower", code=1).err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["no_such_task"], "there is no task or command 'no_such_task'\n  → dlm list --all, which shows"),
        (["exprot"], "there is no task or command 'exprot'\n  → dlm export\n"),
        (["shwo"], "there is no task or command 'shwo'\n  → dlm show\n"),
        (["export:Q3_K_M"], "'export:Q3_K_M': the quantisations are Q4_K_M, Q5_K_M, Q6_K, Q8_0, F16\n  → dlm export:Q"),
        (["export:tower:q8_0"], "Q8_0, F16\n  → dlm export:tower:Q8_0\n"),
        (["list", "nothere"], "there is no task or command 'nothere'"),
        (["info", "nothere"], "there is no task or command 'nothere'"),
        (["forget", "train:towr"], "there is no task or command 'train:towr'\n  → dlm train:tower\n"),
        (["why", "nothere"], "there is no task or command 'nothere'"),
        (["--nonsense"], "dlm run: option --nonsense not recognized\n  → dlm help run\n"),
        (["list", "--foo"], "dlm list: option --foo not recognized\n  → dlm help list\n"),
        (["-n", "many"], "dlm run: the value of num_process cannot be read: invalid literal"),
        (["list", "--sort", "x"], "choices are: 'name', 'definition'"),
        (["-f", "nothere.py"], "there is no file nothere.py"),
        (["-d", "nothere"], "must be a directory"),
        ([""], "a word of the command line is empty"),
        (["list", ""], "a word of the command line is empty"),
        (["info"], "must select *one* task"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_command_line_is_2(here: Workshop, words: list[str], told: str) -> None:
    err = here.dlm(*words, code=2).err
    assert told in err and "Traceback" not in err and "CmdOption" not in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["build", "--help"], "dlm build"),
        (["list", "--help"], "--status"),
        (["-h", "check:tower"], "num_process"),
        (["why", "-h"], "what a build would do"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_help_about_a_command(here: Workshop, words: list[str], told: str) -> None:
    assert told in here.dlm(*words).out


@pytest.mark.parametrize("script", ["dlm", "doit"])
def test_dumpdb_shows_what_doit_remembers(here: Workshop, script: str) -> None:
    assert "nothing has been built yet" in here.run(script, "dumpdb", code=None).err
    here.doit("check")
    assert "check:tower -> {" in here.run(script, "dumpdb").out
    (here.folder / ".doit.db").write_bytes(b"SQLite format 3\0 and nothing more")
    told = here.run(script, "dumpdb", code=None)
    assert told.code and "may be deleted" in told.err and "Traceback" not in told.err


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("x = (", "dodo.py:3:5: '(' was never closed"),
        ("import nothere", "dodo.py:3:1: ModuleNotFoundError: No module named 'nothere'"),
        ("x = 1 + y", "dodo.py:3:9: NameError: name 'y' is not defined"),
    ],
)
@pytest.mark.parametrize("words", [["list"], ["build"], ["show"], ["lock"], ["prompt", "tower", "Who?"]], ids=" ".join)
def test_a_mistake_in_dodo_has_its_position(here: Workshop, words: list[str], line: str, told: str) -> None:
    with (here.folder / "dodo.py").open("a") as file:
        file.write(line + "\n")
    err = here.dlm(*words, code=2).err
    assert err.startswith(told) and "defect" not in err and "Traceback" not in err
    assert "Traceback" in here.dlm("--verbose", *words, code=None).err or line == "x = ("


@pytest.mark.parametrize("words", [["list"], ["show"], ["lock"], ["build"]], ids=" ".join)
def test_where_no_project_is(here: Workshop, words: list[str]) -> None:
    (here.folder / "dodo.py").unlink()
    told = here.dlm(*words, code=2).err
    assert told.startswith("there is no dodo.py in this folder") and "dlm init mybook" in told


def test_two_documents_of_one_id_are_refused_by_every_command(here: Workshop) -> None:
    (here.folder / "copy.dlm").write_text((here.folder / "tower.dlm").read_text())
    for words in (["show"], ["lock"], ["list"], ["prompt", "tower", "Who?"]):
        told = here.dlm(*words, code=2).err
        assert "have the same dlm_id" in told and "defect" not in told
