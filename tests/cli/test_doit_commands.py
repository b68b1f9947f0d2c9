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
        (["export:Q9_K_M"], "'export:Q9_K_M': the quantisations are Q4_K_M, Q5_K_M, Q6_K, Q8_0, F16, BF16, Q5_K_S,"),
        (["export:tower:q8_0"], "IQ1_M, IQ1_S\n  → dlm export:tower:Q8_0\n"),
        (["list", "nothere"], "there is no task or command 'nothere'"),
        (["info", "nothere"], "there is no task or command 'nothere'"),
        (["forget", "train:towr"], "there is no task or command 'train:towr'\n  → dlm train:tower\n"),
        (["why", "nothere"], "there is no task or command 'nothere'"),
        (["--nonsense"], "dlm run: option --nonsense not recognized\n  → dlm help run\n"),
        (["list", "--foo"], "dlm list: option --foo not recognized\n  → dlm help list\n"),
        (["build", "--foo"], "dlm build: option --foo not recognized\n  → dlm build --help\n"),
        (["build", "-n", "x"], "dlm build: the value of num_process cannot be read"),
        (["check:*", "zz*", "yy*"], "no task matches zz*, yy*\n  → doit list --all shows them\n"),
        (["list", "check", "zz*", "yy"], "no task matches zz*, yy\n"),
        (["clean", "check", "zz*", "yy"], "no task matches zz*, yy\n"),
        (["why", "check", "zz*", "yy*"], "no task matches zz*, yy*\n"),
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


MINE = """
def mine(words):
    print(words)

def task_mine():
    return {"actions": [(mine,)], "pos_arg": "words"}
"""


def test_patterns_choose_tasks(here: Workshop) -> None:
    assert [line.split()[0] for line in here.doit("list", "ch*", "check").out.splitlines()] == ["check", "check:tower"]
    assert "0 of 1 steps" in here.doit("why", "check:*", code=1).out
    assert here.doit("check:*", "check").steps == ["check:tower"]
    with (here.folder / "dodo.py").open("a") as file:
        file.write(MINE)
    assert "['*.txt']" in here.doit("-v", "2", "check", "mine", "*.txt").out


@pytest.mark.parametrize("script", ["dlm", "doit"])
def test_clean_says_what_it_keeps(here: Workshop, script: str) -> None:
    told = here.run(script, "clean", "train", "check:tower", "pack", "export:tower").out
    assert "nothing of train, check:tower is removed: what was trained, its history " in told and "dlm gc" in told
    assert "nothing of merge:* is removed" in here.run(script, "clean", "-n", "merge:*").out
    for words in (["pack"], ["export"], ["-c", "export:tower"], []):
        assert "nothing of" not in here.run(script, "clean", *words).out


@pytest.mark.parametrize("script", ["dlm", "doit"])
def test_info_of_a_step_is_for_people(here: Workshop, script: str) -> None:
    info = here.run(script, "info", "check:tower", code=1).out
    assert "Step(" not in info and "<" not in info and "{'rule': 'check/" in info
    assert info.endswith("\nstatus     : run\n * no earlier build of it is known\n")
    here.doit("check")
    assert here.run(script, "info", "check:tower").out.endswith("\nstatus     : up-to-date\n")
    here.edit("tower", "grey", "red")
    assert " * tower.dlm changed\n" in here.run(script, "info", "check:tower", code=1).out
    assert "status" not in here.run(script, "info", "--no-status", "check:tower").out


@pytest.mark.parametrize(
    ("dodo", "home", "told"),
    [
        ("project(3)", "home", "project(3) in dodo.py: a pattern is a text"),
        ("project('*.dlm')", "~nobody-of-this-name/x", "DLM_HOME is ~nobody-of-this-name/x, and there is no such user"),
    ],
)
@pytest.mark.parametrize("words", [[], ["list"], ["why"], ["clean"]], ids=" ".join)
def test_what_project_refuses_is_a_message(here: Workshop, dodo: str, home: str, told: str, words: list[str]) -> None:
    (here.folder / "dodo.py").write_text(f"from dlmbuild.rules import project\nglobals().update({dodo})\n")
    err = here.doit(*words, code=3, DLM_HOME=home).err
    assert err.startswith(f"ERROR: {told}\n  → ") and "Traceback" not in err
    assert here.dlm(*words, code=2, DLM_HOME=home).err.startswith(f"{told}\n  → ")


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("lokc=strict", "lock=strict"),
        ("LOCK=ignore", "lock=ignore"),
        ("locks=update", "lock=update"),
        ("ful=true", "full=true"),
    ],
)
def test_a_misspelt_variable_is_not_passed_over(here: Workshop, word: str, meant: str) -> None:
    for script, code in (("doit", 3), ("dlm", 2)):
        assert f"{word} is not known\n  → write {meant}\n" in here.run(script, word, "check", code=code).err
    here.doit(meant, "check")


@pytest.mark.parametrize(
    "word", ["local=strictly", "pull=true", "lock_file=x", "block=strict", "x=", "full=", "fuller=2"]
)
def test_other_variables_are_a_persons_own(here: Workshop, word: str) -> None:
    here.doit(word, "check")
