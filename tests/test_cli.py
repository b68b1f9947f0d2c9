"""`dlm` and `doit` as a person types them: words, exit codes, what is refused. Nothing here needs PyTorch."""

from __future__ import annotations

import io
import json
import re

import pytest
from ruamel.yaml import YAML

from dlmbuild.store.manifest import append_run
from tests.workshop import Workshop


def test_init_writes_a_project_that_is_well_written(workshop: Workshop) -> None:
    out = workshop.dlm("init", "mybook", "--base", "smollm2-135m").out
    book = workshop.folder / "mybook"
    assert sorted(path.name for path in book.iterdir()) == [
        ".gitignore",
        ".pre-commit-config.yaml",
        "dodo.py",
        "mybook.dlm",
    ]
    assert len((book / "dodo.py").read_text().splitlines()) == 2
    assert "doit export:Q4_K_M" in out
    inside = Workshop(book, workshop.home)
    assert inside.dlm("check").out == "1 checked, all well written\n"
    assert "export:mybook:Q4_K_M" in inside.doit("list", "--all").out
    hooks = YAML(typ="safe").load(io.StringIO((book / ".pre-commit-config.yaml").read_text()))
    check, build = hooks["repos"][0]["hooks"]
    assert (check["entry"], build["entry"]) == ("dlm check", "dlm build")
    assert not check["pass_filenames"] and not build["pass_filenames"]  # one document is told apart from all others
    for path, concerns in (("a.dlm", 1), (".dlm/a.dlm", 1), ("x/.dlm/ignore", 1), ("a.dlm.bak", 0), ("a.md", 0)):
        assert bool(re.search(check["files"], path)) == bool(concerns), path


def test_the_commands_that_init_prints_work_where_they_are_typed(workshop: Workshop) -> None:
    (workshop.folder / "my books").mkdir()
    lines = workshop.dlm("init", "my books/one").out.splitlines()
    build, hooks = (line.split(":  ", 1)[1] for line in lines if line.startswith(("  build:", "  hooks:")))
    workshop.shell(build.replace("doit export:Q4_K_M", "dlm check"), code=0)
    git = hooks.partition(" && pre-commit")[0]
    assert git.endswith("git init") and hooks.endswith("pre-commit install -t pre-commit -t post-commit")
    for before in ("true", "cd 'my books/one'"):
        workshop.shell(f"{before}; {git}", code=0)
    assert (workshop.folder / "my books" / "one" / ".git").is_dir() and not (workshop.folder / ".git").exists()


def test_two_projects_get_two_ids(workshop: Workshop) -> None:
    ids = set()
    for name in ("one", "two"):
        workshop.dlm("init", name)
        text = (workshop.folder / name / f"{name}.dlm").read_text()
        ids.update(re.findall(r"^dlm_id: (\S+)", text, re.MULTILINE))
    assert len(ids) == 2


def test_init_overwrites_nothing(workshop: Workshop) -> None:
    workshop.dlm("init", "book")
    (workshop.folder / "book" / "book.dlm").write_text("mine")
    ran = workshop.dlm("init", "book", code=2)
    assert "exists already" in ran.err
    assert (workshop.folder / "book" / "book.dlm").read_text() == "mine"


@pytest.mark.parametrize("name", ["export", "Q4_K_M", "my book", "book.dlm"])
def test_init_refuses_a_name_that_no_document_can_have(workshop: Workshop, name: str) -> None:
    workshop.dlm("init", name, code=2)
    assert not (workshop.folder / name).exists()


def test_check_says_everything_that_is_wrong_at_once(workshop: Workshop) -> None:
    path = workshop.document("book", base="smollm2-135", more="training: {seed: -1}\n", body="::instruction::\n### Q\n")
    ran = workshop.dlm("check", code=1)
    assert f"{path.name}:5:" in ran.err
    assert f"{path.name}:8:" in ran.err
    assert "Traceback" not in ran.err
    path.write_text(path.read_text().replace("training: {seed: -1}\n", "").replace("### Q\n", "### Q\nA?\n### A\nB.\n"))
    ran = workshop.dlm("check", str(path), code=1)
    assert "smollm2-135m" in ran.err  # the base is looked at as well


def test_check_of_a_missing_or_unreadable_file_is_an_error_in_words(workshop: Workshop) -> None:
    assert "nothere.dlm" in workshop.dlm("check", "nothere.dlm", code=1).err
    (workshop.folder / "bytes.dlm").write_bytes(b"---\n\xff\xfe")
    assert "UTF-8" in workshop.dlm("check", "bytes.dlm", code=1).err
    (workshop.folder / "gone.dlm").symlink_to("nowhere")
    for ran in (workshop.dlm("check", "gone.dlm", code=1), workshop.doit("check:gone", code=1)):
        assert "gone.dlm: the file cannot be read: it is a link to nowhere, which is not there\n" in ran.err
        assert "→ bring that file back, or delete the link" in ran.err


def test_a_document_that_is_not_named_whole_is_guessed(workshop: Workshop) -> None:
    workshop.document("tower", base="smollm2-135m")
    assert "→ write tower.dlm\n" in workshop.dlm("check", "tower", code=1).err
    told = workshop.dlm("show", "towr", code=2).err
    assert "no document 'towr' in this project: its documents are: tower\n  → write tower\n" in told


def test_a_name_that_begins_with_a_dash_is_a_name(workshop: Workshop) -> None:
    workshop.document("-x", base="smollm2-135m")
    for words in (("--", "-x.dlm"), ("--format", "text", "--", "-x.dlm"), ("./-x.dlm",)):
        assert 'a document cannot be called "-x"' in workshop.dlm("check", *words, code=1).err


def test_a_document_that_is_named_twice_is_checked_once(workshop: Workshop) -> None:
    workshop.document("book", base="smollm2-135m")
    names = ("book.dlm", "./book.dlm", str(workshop.folder / "book.dlm"))
    assert workshop.dlm("check", *names).out == "1 checked, all well written\n"


@pytest.mark.parametrize(
    "words",
    [
        ("check",),
        ("show",),
        ("list", "--all", "--status"),
        ("why",),
        ("metrics",),
        ("gc",),
        ("lock",),
        ("purge", "book"),
    ],
)
def test_who_only_looks_leaves_nothing_behind(workshop: Workshop, words: tuple[str, ...]) -> None:
    workshop.document("book", base="smollm2-135m")
    workshop.dlm(*words, code=None)
    assert not workshop.home.exists()


def test_show_has_the_numbers_of_the_adapter_in_place(workshop: Workshop) -> None:
    path = workshop.document("book", base="smollm2-135m")
    store = workshop.home / "store" / path.read_text().split("dlm_id: ")[1].split("\n")[0]
    for version in ("v0001", "v0002"):
        (store / "adapter" / "versions" / version).mkdir(parents=True)
    (store / "adapter" / "current.txt").write_text("versions/v0001\n")
    for number in (1, 2):
        run = {"adapter_version": f"v000{number}", "train_loss": number / 2}
        append_run(store / "manifest.json", store.name, "training_runs", run)
    shown = json.loads(workshop.dlm("show", "--json").out)["book"]
    assert (shown["adapter_version"], shown["train_loss"], shown["trainings"]) == ("v0001", 0.5, 2)


def test_words_that_cannot_be_meant_are_refused(workshop: Workshop) -> None:
    workshop.document("book", base="smollm2-135m")
    for command in ("show", "check", "prompt", "list"):
        assert "a word of the command line is empty" in workshop.dlm(command, "", code=2).err
    ran = workshop.dlm("--strict-lock", "--ignore-lock", "list", code=2)
    assert "--strict-lock and --ignore-lock exclude each other" in ran.err
    assert "what was built" in workshop.dlm("--strict-lock", "--strict-lock", "help").out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("unpack", "nosuch"), "nosuch: there is no such pack: No such file or directory\n  → name the .dlm.pack file"),
        (("unpack", "."), ".: there is no such pack: Is a directory\n  → name the .dlm.pack file"),
        (("init", "/proc/book"), "/proc/book cannot be written: No such file or directory\n  → take a folder"),
    ],
)
def test_a_place_that_is_none_is_answered_with_what_to_do(
    workshop: Workshop, words: tuple[str, ...], told: str
) -> None:
    assert workshop.dlm(*words, code=1).err.startswith(told)


def test_an_empty_folder_is_a_usage_error(workshop: Workshop) -> None:
    assert "dlm init" in workshop.dlm("check", code=2).err


def test_list_shows_each_group_with_a_line(workshop: Workshop) -> None:
    workshop.document("book", base="smollm2-135m")
    groups = workshop.doit("list").out.splitlines()
    assert [line.split()[0] for line in groups] == sorted(
        [
            "base",
            "check",
            "dataset",
            "evaluate",
            "export",
            "gate",
            "gguf",
            "hub",
            "imatrix",
            "merge",
            "mix",
            "ollama",
            "pack",
            "parity",
            "plan",
            "prefer",
            "quantize",
            "retention",
            "runtime",
            "smoke",
            "train",
        ]
    )
    assert all(len(line.split()) > 3 for line in groups)
    status = workshop.doit("list", "--all", "--status").out
    assert re.search(r"^R train:book ", status, re.MULTILINE)


def test_unknown_words_are_refused_with_exit_code_2(workshop: Workshop) -> None:
    workshop.document("book", base="smollm2-135m")
    assert "export:Q9" in workshop.dlm("export:Q9", code=2).err
    workshop.dlm("prompt", code=2)
    assert "no document 'x'" in workshop.dlm("prompt", "x", "why?", code=2).err


def test_prompt_before_a_build_says_what_to_type(workshop: Workshop) -> None:
    workshop.document("book", base="smollm2-135m")
    assert "doit train" in workshop.dlm("prompt", "book", "why?", code=1).err


def test_two_documents_of_one_name_or_one_id_are_refused(workshop: Workshop) -> None:
    path = workshop.document("book", base="smollm2-135m")
    (workshop.folder / "copy.dlm").write_text(path.read_text())
    assert "the same dlm_id" in workshop.dlm("list", code=2).err


def test_an_unknown_base_is_refused_before_anything_is_fetched(workshop: Workshop) -> None:
    workshop.document("book", base="smolm2-135m")
    ran = workshop.dlm("train", code=1)
    assert "book.dlm:4:13: unknown base model 'smolm2-135m'" in ran.err
    assert "smollm2-135m" in ran.err
    assert not (workshop.home / "bases").exists()


def test_the_hub_out_of_reach_is_said_in_words(workshop: Workshop) -> None:
    workshop.document("book", base="hf:some/model@main")
    ran = workshop.dlm("base", code=1)
    assert "some/model" in ran.err
    assert "Traceback" not in ran.err


def test_help_and_version(workshop: Workshop) -> None:
    assert "dlm init" in workshop.dlm("--help").out
    assert workshop.dlm("--version").out.startswith("dlmbuild ")
    for command in ("init", "check", "prompt"):
        assert "usage: dlm" in workshop.dlm(command, "--help").out
        assert workshop.dlm("help", command).out == workshop.dlm(command, "--help").out
    assert "usage: dlm build" in workshop.dlm("help", "build").out
    workshop.document("book", base="smollm2-135m")
    assert workshop.dlm("help", "train").out.startswith("train  train the adapters")
    assert "there is no task or command 'trian'\n  → dlm train" in workshop.dlm("help", "trian", code=2).err
    assert "more than one word" in workshop.dlm("help", "train", "export", code=2).err
    for words in ("help trian", "help train export"):
        ran = workshop.doit(*words.split(), code=3)
        assert f'invalid parameter: "{words[5:]}"' in ran.err and not ran.out
    for line in ("help", "help train", "help list", "list", "why", "info check:book"):
        assert workshop.shell(f"doit {line} | true").err == ""
    full = workshop.shell("dlm doctor --help > /dev/full")
    assert (full.code, full.err) == (1, "the output cannot be written: No space left on device\n")


def test_a_terminal_that_knows_only_ascii_is_no_reason_to_fail(workshop: Workshop) -> None:
    workshop.document("book", base="smollm2-135m")
    workshop.doit("check", PYTHONIOENCODING="ascii")
    assert "? doit train" in workshop.dlm("prompt", "book", "why?", code=1, PYTHONIOENCODING="ascii").err
