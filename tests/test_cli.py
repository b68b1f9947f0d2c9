"""`dlm` and `doit` as a person types them: words, exit codes, what is refused. Nothing here needs PyTorch."""

from __future__ import annotations

import io
import re

import pytest
from ruamel.yaml import YAML

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
    assert [hook["entry"] for hook in hooks["repos"][0]["hooks"]] == ["dlm check", "dlm build"]


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


@pytest.mark.parametrize("name", ["export", "Q4_K_M", "my book"])
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
            "gguf",
            "merge",
            "pack",
            "parity",
            "plan",
            "prefer",
            "quantize",
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


def test_a_terminal_that_knows_only_ascii_is_no_reason_to_fail(workshop: Workshop) -> None:
    workshop.document("book", base="smollm2-135m")
    workshop.doit("check", PYTHONIOENCODING="ascii")
    assert "? doit train" in workshop.dlm("prompt", "book", "why?", code=1, PYTHONIOENCODING="ascii").err
