"""`dlm check`: everything that is wrong with a document at once, the base that it names included."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from tests.workshop import Workshop


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ("smollm2-135", "4:13: unknown base model 'smollm2-135'"),
        ("hf:org/name", "4:13: 'hf:org/name' has no revision"),
        ("ftp:somewhere", "4:13: unknown kind of base model 'ftp:'"),
        ("  'file:'", "4:15: 'file:' names no file"),
    ],
)
@pytest.mark.parametrize("more", ["", "training: {seed: -1}\n"])
@pytest.mark.parametrize("body", ["Prose.\n", "::instruction::\n### A\nB.\n"])
def test_a_bad_base_has_its_position_whatever_else_is_wrong(
    workshop: Workshop, base: str, told: str, more: str, body: str
) -> None:
    workshop.document("book", base=base, more=more, body=body)
    for err in (workshop.dlm("check", code=1).err, workshop.doit("check", code=1).err):
        assert f"book.dlm:{told}" in err
        assert ("book.dlm:5:18: " in err) == bool(more)
        assert (f"book.dlm:{7 + bool(more)}:1: " in err) == body.startswith("::")


def test_a_base_that_cannot_be_read_is_told_once(workshop: Workshop) -> None:
    workshop.document("book", base="3")
    err = workshop.dlm("check", code=1).err
    assert err.count("book.dlm:") == 1 and "base_model is 3" in err


# -- a base that lies on this disk -------------------------------------------------------------------------------


@pytest.fixture
def beside(workshop: Workshop) -> Path:
    """The project folder, with some things in it that could be taken for a base."""
    (workshop.folder / "empty").mkdir()
    (workshop.folder / "folder").mkdir()
    (workshop.folder / "folder" / "config.json").write_text("{}")
    (workshop.folder / "sound.gguf").write_bytes(b"GGUF\3\0\0\0")
    (workshop.folder / "pointer.gguf").write_text("version https://git-lfs.github.com/spec/v1\n")
    (workshop.folder / "nothing.gguf").touch()
    os.mkfifo(workshop.folder / "pipe")
    return workshop.folder


@pytest.mark.parametrize(
    ("base", "what", "why", "do"),
    [
        (
            "file:./missing",
            "names no folder",
            "{}/missing does not exist",
            "write the path of a folder with config.json",
        ),
        ("gguf:./missing.gguf", "names no file", "{}/missing.gguf does not exist", "write the path of a GGUF file"),
        ("gguf:./folder", "names no file", "{}/folder is a folder", "write file:./folder\n"),
        ("gguf:./empty", "names no file", "{}/empty is a folder", "write the path of a GGUF file"),
        ("file:./sound.gguf", "names no folder", "{}/sound.gguf is a file", "write gguf:./sound.gguf\n"),
        ("file:./dodo.py", "names no folder", "{}/dodo.py is a file", "write the path of a folder"),
        ("file:./empty", "is no checkpoint", "{}/empty has no config.json", "name the folder that holds the model's"),
        ("gguf:./pointer.gguf", "is no GGUF file", "begins with b'vers', not with b'GGUF'", "fetch the file again"),
        ("gguf:./nothing.gguf", "is no GGUF file", "{}/nothing.gguf is empty", "fetch the file again"),
        ("gguf:./pipe", "names no file", "{}/pipe is neither a folder nor a file", "write the path of a GGUF file"),
        ("file:./" + 300 * "x", "cannot be read", "File name too long", "see to its permissions, or"),
    ],
)
def test_a_base_that_is_not_there(workshop: Workshop, beside: Path, base: str, what: str, why: str, do: str) -> None:
    workshop.document("book", base=base)
    workshop.document("sound", base="smollm2-135m")
    checked = workshop.dlm("check", code=1)
    assert checked.out == "1 of 2 documents are well written\n"
    assert f"    4 | base_model: {base}"[:100] in checked.err
    built = workshop.doit("check", code=1)
    assert built.steps == ["check:sound"]
    for told in (checked.err, built.err):
        assert told.count("book.dlm:4:13: ") == 1 and "Traceback" not in told
        assert f"book.dlm:4:13: '{base}' {what}: " in told and why.format(beside) in told and f"→ {do}" in told


def test_what_was_built_is_there_without_its_base(built: Workshop) -> None:
    built.doit("check")
    (built.folder / "base").rename(built.folder / "gone")
    assert "tower.dlm:4:13: 'file:./base' names no folder" in built.doit("check", code=1).err  # whatever was noted
    assert "adapter version" in built.dlm("show", "tower").out
    assert built.dlm("prompt", "--export", "Q4_K_M", "--max-tokens", "2", "tower", "Who?").out
    (built.folder / "gone").rename(built.folder / "base")
    assert built.doit("export:Q4_K_M").steps == []


def test_nothing_is_imported_to_look_for_a_base(workshop: Workshop, beside: Path) -> None:
    workshop.document("book", base="file:./folder")
    err = workshop.dlm("check", PYTHONPROFILEIMPORTTIME="1").err
    imported = {line.rpartition("|")[2].strip() for line in err.splitlines() if line.startswith("import time:")}
    assert "dlmbuild.base_models.reference" in imported
    assert not imported & {"doit", "numpy", "dlmbuild.base_models.checkpoint", "dlmbuild.build.project"}


# -- documents that cannot be built side by side -----------------------------------------------------------------


def test_a_copy_is_told_by_its_id(workshop: Workshop) -> None:
    book = workshop.document("book", base="smollm2-135m")
    (workshop.folder / "copy.dlm").write_bytes(book.read_bytes())
    workshop.document("other", base="smollm2-135m")
    for script, *words in (
        ["dlm", "check"],
        ["dlm", "check", "book.dlm", "copy.dlm"],
        ["doit", "check"],
        ["dlm", "show"],
    ):
        told = workshop.run(script, *words, code=None)
        assert told.code and "Traceback" not in told.err
        assert told.err.count("copy.dlm:2:9: book.dlm and copy.dlm have the same dlm_id 01") == 1
        assert "book.dlm:2" not in told.err and "other.dlm" not in told.err
    data = json.loads(workshop.dlm("check", "--format", "json", code=1).out)
    assert [[(e["line"], e["col"]) for e in d["errors"]] for d in data["documents"]] == [[], [(2, 9)], []]
    workshop.dlm("check", "copy.dlm")
    workshop.dlm("check", "book.dlm", "book.dlm", "./book.dlm")

    fresh = re.findall(r"→ .*(dlm_id: \w{26})$", workshop.dlm("check", code=1).err, re.MULTILINE)
    workshop.edit("copy", book.read_text().splitlines()[1], *fresh)
    workshop.dlm("check")
    assert len(workshop.doit("check").steps) == 3


def test_two_documents_of_one_name(workshop: Workshop) -> None:
    workshop.document("book", base="smollm2-135m")
    (workshop.folder / "more").mkdir()
    workshop.document("more/book", base="smollm2-135m")
    workshop.dlm("check")  # its pattern does not reach that far
    workshop.doit("check")
    dodo = workshop.folder / "dodo.py"
    dodo.write_text(dodo.read_text().replace('"*.dlm"', '"**/*.dlm"'))
    for script in ("dlm", "doit"):
        told = workshop.run(script, "check", code=None)
        assert told.code and "more/book.dlm:1:1: book.dlm and more/book.dlm have the same name: " in told.err
    workshop.follow(told.err.replace("rename one of them: ", ""))
    workshop.dlm("check")
    assert workshop.doit("check").steps == ["check:book-2"]


def test_what_is_kept_aside_is_no_copy(workshop: Workshop) -> None:
    book = workshop.document("book", base="smollm2-135m")
    (workshop.folder / "old").mkdir()
    (workshop.folder / "old" / "copy.dlm").write_bytes(book.read_bytes())
    workshop.dlm("check")
    workshop.doit("check")
    (workshop.folder / "dodo.py").unlink()
    (workshop.folder / "copy.dlm").write_bytes(book.read_bytes())
    assert workshop.dlm("check", code=1).err.count("copy.dlm:2:9: book.dlm and copy.dlm have the same dlm_id") == 1


# -- which documents there are ------------------------------------------------------------------------------------


def test_what_is_checked_without_words(workshop: Workshop) -> None:
    for folder in ("text/.dlm", ".dlm", ".cache/x", "more.dlm"):
        (workshop.folder / folder).mkdir(parents=True)
    for name in ("text/.dlm/one", ".dlm/two", ".cache/x/three", "more.dlm/four", "five", ".six"):
        workshop.document(name, base="smollm2-135m")
    for words in (["check"], ["migrate"]):
        ran = workshop.dlm(*words, code=1)
        assert ran.err.startswith('.six.dlm: a document cannot be called ".six"') and ran.err.count("cannot") == 1
        assert "cache" not in ran.out + ran.err
    data = json.loads(workshop.dlm("check", "--format", "json", code=1).out)
    found = [".dlm/two.dlm", ".six.dlm", "five.dlm", "more.dlm/four.dlm", "text/.dlm/one.dlm"]
    assert [document["path"] for document in data["documents"]] == found
    assert '.six.dlm: a document cannot be called ".six"' in workshop.doit("check", code=1).err
    for command in ("check", "migrate"):
        assert "not in hidden folders other than .dlm" in " ".join(workshop.dlm(command, "--help").out.split())
