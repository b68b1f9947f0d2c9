"""Documents with sources through the command line: what a person is told, what is trained, what is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import make_tiny_base
from tests.workshop import Workshop

SOURCES = "training: {sources: [{path: docs}]}\n"


def write(workshop: Workshop, name: str, content: str | bytes = "Ships wait.\n") -> Path:
    path = workshop.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    """A document with a folder of sources, and a base whose tokenizer is there."""
    make_tiny_base(workshop.folder / "base")
    for number in range(5):
        write(workshop, f"docs/{number}.md", f"Ship {number} waits.\n")
    workshop.document("tower", more=SOURCES)
    return workshop


def rows(shop: Workshop) -> list[dict[str, Any]]:
    shards = sorted((shop.store / "dataset").iterdir())
    return [json.loads(line) for shard in shards for line in shard.read_bytes().splitlines()]


def test_check_says_what_counts_and_what_is_left_out(shop: Workshop) -> None:
    write(shop, "docs/.env", "KEY=1")
    write(shop, "docs/in/node_modules/x.js")
    write(shop, "docs/a.bin2", b"\0")
    line = "docs: 5 files, 70 bytes; left out: 1 binary, 1 excluded by default, 1 excluded by default (folders)"
    said = shop.dlm("check", "tower.dlm")
    assert said.out == f"tower.dlm: {line}\n1 checked, all well written\n"
    assert f"check:tower  {line}\n" in shop.doit("check").out
    data = json.loads((shop.store / "document.json").read_bytes())
    assert [list(source) for source in data["sources"]] == [["files", "path", "skipped"]]
    assert list(data["sources"][0]["files"]) == [f"{number}.md" for number in range(5)]
    assert data["sources"][0]["skipped"] == {"binary": 1, "excluded by default": 1, "excluded by default (folders)": 1}
    key = json.loads((shop.store / "built.json").read_bytes())["check"]
    record = json.loads((shop.home / "records" / key[:2] / f"{key}.json").read_bytes())
    assert record["notes"]["sources"] == [{"files": 5, "path": "docs", "skipped": data["sources"][0]["skipped"]}]


def test_sources_are_trained_with_the_document(shop: Workshop) -> None:
    shop.doit("dataset")
    with_sources = rows(shop)
    counts = json.loads((shop.store / "dataset.json").read_bytes())["counts"]
    assert counts["rows"] == {"prose": 6, "instruction": 2} and len(with_sources) == 8
    shop.edit("tower", SOURCES, "")
    shop.doit("dataset")
    assert [row for row in with_sources if row in rows(shop)] == rows(shop) and len(rows(shop)) == 3


def test_a_document_may_have_no_text_but_its_sources(shop: Workshop) -> None:
    shop.document("tower", more=SOURCES, body="")
    shop.doit("dataset")
    assert len(rows(shop)) == 5
    write(shop, "docs/.dlm/training.yaml", "metadata: {a: b}\nweights: {a: {b: 0}}\n")
    refused_for_no_text(shop, "docs: 5 files")
    shutil.rmtree(shop.folder / "docs")
    (shop.folder / "docs").mkdir()
    refused_for_no_text(shop, "docs: 0 files")
    shop.document("tower", more="training: {sources: [{path: .}]}\n", body="")
    for path in shop.folder.iterdir():
        if path.name not in ("tower.dlm", "base"):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (shop.folder / ".dlm").mkdir()
    write(shop, ".dlm/ignore", "base/\n")
    assert "tower.dlm:5:21: its sources give no text: " in shop.dlm("check", code=1).err
    shop.document("tower", more=SOURCES)  # which has text of its own
    (shop.folder / "docs").mkdir()
    assert "docs: 0 files" in shop.dlm("check").out


def refused_for_no_text(shop: Workshop, found: str) -> None:
    checked, built = shop.dlm("check", code=1), shop.doit("dataset", code=1)
    assert found in checked.out
    for told in (checked.err, built.err):
        assert "tower.dlm:5:21: its sources give no text: there is nothing to learn from the document\n" in told
        assert "→ name a file with text, or write text below the frontmatter\n" in told
    assert built.steps == []


def test_sources_without_text_beside_another_mistake_are_not_blamed(shop: Workshop) -> None:
    shop.document("tower", more=SOURCES.replace("{sources", "{seed: x, sources"), body="")
    for path in (shop.folder / "docs").iterdir():
        path.unlink()
    assert "give no text" not in shop.dlm("check", code=1).err


def test_why_names_the_files(shop: Workshop) -> None:
    shop.doit("dataset")
    write(shop, "docs/1.md", "Ship 1 sails.\n")
    write(shop, "docs/new/6.md")
    (shop.folder / "docs/2.md").unlink()
    said = shop.doit("why", "dataset", code=1).out
    named = [line.strip() for line in said.splitlines() if line.strip().startswith("docs/")]
    assert [line.partition('"')[0].strip() for line in named] == [
        "docs/1.md changed",
        "docs/2.md is gone (was",
        "docs/new/6.md is new:",
    ]
    assert shop.doit("dataset").steps == ["check:tower", "dataset:tower"]


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ("{sources: [{path: docs}, {path: nowhere}]}", '5:43: training.sources[1].path is "nowhere": No such file'),
        ("{sources: [{path: /}], sources_policy: strict}", '5:29: training.sources[0].path is "/", which leads out'),
        ("{sources: [{path: docs, exclude: [a, '[b-a]']}]}", '5:48: the pattern "[b-a]": it matches no name'),
        ("{sources: [{path: /dev/null}]}", "5:29: training.sources[0].path is"),
        ("{sources: [{path: docs, max_files: 0}]}", "5:46: training.sources[0].max_files is 0"),
    ],
)
def test_a_mistake_in_the_document_has_its_position(shop: Workshop, training: str, message: str) -> None:
    shop.edit("tower", SOURCES, f"training: {training}\n")
    assert f"tower.dlm:{message}" in shop.dlm("check", code=1).err
    failed = shop.doit("dataset", code=1).err
    assert f"tower.dlm:{message}" in failed and "Traceback" not in failed
    told = shop.doit("why", "dataset", code=1).out
    assert f"tower.dlm:{message}" in told or "tower.dlm has mistakes" in told


ALL = """training: {seed: x, sources: [{path: docs, exclude: ['[b-a]', '[']}, {path: nowhere}, {max_files: 1},
  {path: docs}, {path: ~nobody-here/docs}], sources_policy: often}
"""


def test_all_mistakes_are_told_at_once_and_quoted(shop: Workshop) -> None:
    shop.edit("tower", SOURCES, ALL)
    shop.edit("tower", "::instruction::", "::instructions::")
    write(shop, "docs/.dlm/training.yaml", "exlude: []\ninclude: 3\n")
    write(shop, "docs/.dlm/ignore", b"a\n\xc3b\n")
    write(shop, "docs/in/.dlm/ignore", "\t[b-a] \n")
    said = shop.dlm("check", code=1)
    assert [line.partition(": ")[0] for line in said.err.splitlines() if line.startswith(("tower", "docs"))] == [
        "tower.dlm:5:18",  # the seed
        "tower.dlm:5:54",  # both patterns
        "tower.dlm:5:63",
        "tower.dlm:5:77",  # nowhere
        "tower.dlm:5:87",  # no path
        "tower.dlm:6:24",  # nobody's folder
        "tower.dlm:6:61",  # the policy
        "tower.dlm:12:3",
        "docs/.dlm/ignore:2:1",
        "docs/.dlm/training.yaml:1:1",
        "docs/.dlm/training.yaml:2:10",
        "docs/in/.dlm/ignore:1:1",
    ]
    for quoted in ("2 | \\xc3b\n      | ^\n", "2 | include: 3\n      |          ^\n", "1 |  [b-a] \n      | ^\n"):
        assert f"    {quoted}  → " in said.err
    told = json.loads(shop.dlm("check", "--format", "json", code=1).out)["documents"][0]
    assert len(told["errors"]) == 12 and told["sources"] == []


def test_sources_of_a_document_with_other_mistakes_are_told_too(shop: Workshop) -> None:
    shop.edit("tower", "training: {", "training: {seed: x, ")
    said = shop.dlm("check", code=1)
    assert "tower.dlm: docs: 5 files, 70 bytes\n" in said.out
    assert said.err.startswith('tower.dlm:5:18: training.seed is "x"')


def test_a_mistake_in_a_configuration_stops_the_build(shop: Workshop) -> None:
    write(shop, "docs/in/.dlm/training.yaml", "include: ['*.md']\nexlude: [secret]\n")
    message = 'docs/in/.dlm/training.yaml:2:1: unknown key "exlude"'
    assert message in shop.dlm("check", code=1).err
    failed = shop.doit("dataset", code=1).err
    assert message in failed and 'did you mean "exclude"?' in failed
    write(shop, "docs/in/.dlm/training.yaml", "exclude: [secret]\n")
    assert "dataset:tower" in shop.doit("dataset").steps


def test_nothing_is_read_when_nothing_changed(shop: Workshop) -> None:
    shop.doit("dataset")
    shop.doit("dataset")
    traced = shop.doit("dataset", PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip() for line in traced.err.splitlines()}
    assert not imported & {"pydantic", "ruamel.yaml", "pathspec", "tokenizers", "torch"}
    assert "everything is up to date" in traced.out


def test_hostile_names_and_kinds_do_not_stop_a_build(shop: Workshop) -> None:
    write(shop, "docs/a\nb/c\n.md")
    os.mkfifo(shop.folder / "docs/pipe.md")
    (shop.folder / "docs/loop").symlink_to("loop")
    (shop.folder / "docs/up").symlink_to("..")
    assert "docs: 6 files, 82 bytes; left out: 1 a link, 2 not a plain file" in shop.doit("dataset").out
    assert len(rows(shop)) == 9


def test_a_project_that_is_its_own_source_comes_to_rest(shop: Workshop) -> None:
    shop.edit("tower", "path: docs", "path: .")
    shop.doit("dataset")
    assert shop.doit("dataset").steps == []
    files = json.loads((shop.store / "document.json").read_bytes())["sources"][0]["files"]
    assert "docs/1.md" in files and "dodo.py" in files
    assert not {"tower.dlm", ".doit.db"} & set(files)


def test_a_document_elsewhere_in_the_project(shop: Workshop) -> None:
    (shop.folder / "dodo.py").write_text(
        'from dlmbuild.rules import project\nglobals().update(project("*/*.dlm", "*/.dlm/*.dlm"))\n'
    )
    (shop.folder / "books").mkdir()
    shop.edit("tower", "file:./base", "file:../base")
    (shop.folder / "tower.dlm").rename(shop.folder / "books/tower.dlm")
    (shop.folder / "docs").rename(shop.folder / "books/docs")
    assert "docs: 5 files" in shop.doit("dataset").out
    write(shop, "books/docs/.dlm/ignore", "a[\n")
    assert "books/docs/.dlm/ignore:1:1:" in shop.doit("dataset", code=1).err


def test_a_moved_project_trains_nothing_again(shop: Workshop) -> None:
    shop.doit("check")
    moved = Workshop(shop.folder.rename(shop.folder.parent / "elsewhere"), shop.home)
    assert moved.doit("check").steps == []


def test_the_memory_of_a_document_that_is_gone_is_collected(shop: Workshop) -> None:
    shop.document("keep", more=SOURCES)
    shop.dlm("check")
    memory = shop.home / "sources"
    assert len(list(memory.iterdir())) == 2 and "0 things could go" in shop.dlm("gc").out
    (shop.folder / "tower.dlm").unlink()
    (memory / "old.jsonl").write_bytes(b"nothing\n")
    assert shop.dlm("gc", "--verbose").out.count("the document whose sources it remembers is gone") == 2
    assert shop.dlm("gc", "--delete").out.startswith("2 things deleted")
    (left,) = memory.iterdir()
    before = left.stat().st_mtime_ns
    shop.dlm("check")
    assert left.stat().st_mtime_ns == before


def test_a_home_that_cannot_remember(shop: Workshop) -> None:
    shop.home.mkdir()
    (shop.home / "sources").write_text("in the way")
    shop.doit("dataset")
    assert shop.doit("dataset").steps == []
