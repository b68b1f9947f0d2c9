"""`dlm migrate`: what it shows, what it changes, and that nothing else is another byte."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlmbuild.doc.document import as_data, parse_bytes, read
from dlmbuild.doc.edits import Edit, edited, unified_diff
from dlmbuild.doc.migrations import migration
from dlmbuild.doc.versions import NEWEST_VERSION
from tests.bench.cost import SCRIPTS, cost
from tests.workshop import Workshop

FIRST = """---
# An old one.
dlm_id:   01HZX3Q5J8K9M2N4P6R8T0V2W4
base_model: smollm2-135m
training:
  seed: 7
  dpo:
    enabled: false  # not yet
    beta: 0.1       # keeps its comment
    loss_type: sigmoid
    learning_rate: 5e-6
    num_epochs: 1   # so does this
    reference: "pre_dpo_adapter"
dlm_version: 1 # first
---

A line of text.
\\::prose:: was written with a backslash.

````
\\::prose::
````
The end. \t
"""
NEWEST = """---
# An old one.
dlm_id:   01HZX3Q5J8K9M2N4P6R8T0V2W4
base_model: smollm2-135m
training:
  seed: 7
  preference:
    enabled: false  # not yet
    hyperparams: {beta: 0.1, learning_rate: 5e-6, num_epochs: 1}       # keeps its comment
    loss_type: sigmoid
    # so does this
    reference: pre_adapter
dlm_version: 16 # first
---

A line of text.
\\\\::prose:: was written with a backslash.

````
\\::prose::
````
The end. \t
"""


def migrated(data: bytes) -> bytes:
    return edited(data, migration(data, "a.dlm"))


def ids(data: bytes) -> list[str]:
    body = parse_bytes(data, "a.dlm").body
    return [body.section_id(number) for number in range(len(body.sections))]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_only_what_must_change_is_changed(end: str, mark: str) -> None:
    old, new = ((mark + text.replace("\n", end)).encode() for text in (FIRST, NEWEST))
    assert migrated(old) == new
    assert as_data(parse_bytes(old, "a.dlm")) == as_data(parse_bytes(new, "a.dlm"))
    assert ids(old) == ids(new)
    assert migration(new, "a.dlm") == []


@pytest.mark.parametrize(
    ("dpo", "preference"),
    [
        ("dpo: {}", "preference: {}"),
        ("dpo:", "preference:"),
        ("'dpo': {enabled: false}", "preference: {enabled: false}"),
        (
            "dpo: {beta: 0.1, enabled: false, num_epochs: 1}",
            "preference: {hyperparams: {beta: 0.1, num_epochs: 1}, enabled: false}",
        ),
        (
            "dpo: {num_epochs: 1, beta: 0.1, reference: base, }",
            "preference: {hyperparams: {num_epochs: 1, beta: 0.1}, reference: base, }",
        ),
        (
            "dpo: {enabled: false, beta: 0.1, num_epochs: 1, learning_rate: 1e-5}",
            "preference: {enabled: false, hyperparams: {beta: 0.1, num_epochs: 1, learning_rate: 1e-5}, }",
        ),
        (
            "dpo: {beta: 0.1,\n    enabled: false, num_epochs: 1,\n    loss_type: sigmoid}",
            "preference: {hyperparams: {beta: 0.1, num_epochs: 1},\n    enabled: false,\n    loss_type: sigmoid}",
        ),
        (
            "dpo: {num_epochs: 1, beta: 0.1  # small\n  }",
            "preference: {hyperparams: {num_epochs: 1, beta: 0.1} # small\n  }",
        ),
        ('dpo: {"b\\x65ta": 0.1}', "preference: {hyperparams: {beta: 0.1}}"),
        ('dpo: {reference: "pre_dpo_\\x61dapter"}', "preference: {reference: pre_adapter}"),
        ("dpo: {reference: 'base'}", "preference: {reference: 'base'}"),
    ],
)
def test_first_version_in_one_line(dpo: str, preference: str) -> None:
    head = "---\ndlm_id: 01HZX3Q5J8K9M2N4P6R8T0V2W4\ndlm_version: 1\nbase_model: smollm2-135m\n"
    new = migrated(f"{head}training:\n  {dpo}\n---\ntext\n".encode()).decode()
    quoted = preference.replace("preference:", "'preference':") if dpo.startswith("'") else preference
    assert new == f"{head.replace(': 1', f': {NEWEST_VERSION}')}training:\n  {quoted}\n---\ntext\n"
    old = f"{head}training:\n  {dpo}\n---\ntext\n"
    shown = unified_diff(old, migration(old.encode(), "a.dlm"), "a.dlm").splitlines()[3:]
    assert [line[1:] for line in shown if line[0] in " +"] == new.splitlines()
    assert not [line for line in shown if line.startswith("+") and line.endswith((" ", "\t"))]


def test_a_name_in_escapes_is_told_at_its_place(workshop: Workshop) -> None:
    path = workshop.folder / "old.dlm"
    path.write_text(FIRST.replace("  dpo:", '  "d\\x70o":'))
    assert workshop.dlm("migrate", "--write", code=1).err == (
        "old.dlm:7:3: training.dpo is spelled with escapes: its name changes\n  → write dpo, and migrate it then\n"
    )
    path.write_text(FIRST)
    workshop.dlm("migrate", "--write")


def test_shows_first_and_writes_when_told(workshop: Workshop) -> None:
    path = workshop.folder / "old.dlm"
    path.write_text(FIRST)
    path.chmod(0o640)
    shown = workshop.dlm("migrate")
    assert path.read_text() == FIRST and "--write" in shown.err
    wrote = workshop.dlm("migrate", "old.dlm", "--write")
    assert path.read_text() == NEWEST
    assert (workshop.folder / "old.dlm.bak").read_text() == FIRST
    assert "old.dlm.bak" in wrote.out
    assert path.stat().st_mode & 0o777 == 0o640
    assert workshop.dlm("migrate", "--write").out == f"old.dlm is at version {NEWEST_VERSION} already\n"
    path.write_text(FIRST)
    workshop.dlm("migrate", "--write")
    assert (workshop.folder / "old.dlm.bak2").read_text() == FIRST
    (workshop.folder / "old.dlm.bak").unlink()
    path.write_text(FIRST)
    patch = workshop.dlm("migrate").out
    subprocess.run(["patch", "-s", "-p0"], cwd=workshop.folder, input=patch, text=True, check=True)
    assert path.read_text() == NEWEST


def test_a_link_stays_a_link(workshop: Workshop) -> None:
    (workshop.folder / "texts").mkdir()
    (workshop.folder / "texts" / "old.dlm").write_text(FIRST)
    (workshop.folder / "link.dlm").symlink_to("texts/old.dlm")
    workshop.dlm("migrate", "link.dlm", "--write")
    assert (workshop.folder / "link.dlm").readlink() == Path("texts/old.dlm")
    assert (workshop.folder / "texts" / "old.dlm").read_text() == NEWEST


def test_a_document_with_mistakes_is_left_alone(workshop: Workshop) -> None:
    path = workshop.folder / "old.dlm"
    path.write_text(FIRST.replace("seed: 7", "seed: -7"))
    assert "old.dlm:6:9: training.seed is -7" in workshop.dlm("migrate", "--write", code=1).err
    assert not (workshop.folder / "old.dlm.bak").exists()


_LINES = st.lists(
    st.sampled_from(["\\::prose::", "\\\\### Q", " \\~~~", "x", "", " ", "```", "::prose::", "~~~", "\\```", "\\x"]),
    max_size=12,
)


@settings(max_examples=300, deadline=None)
@given(_LINES, st.sampled_from(["\n", "\r\n"]))
def test_every_migrated_document_says_the_same(lines: list[str], end: str) -> None:
    head = ["---", "dlm_id: 01HZX3Q5J8K9M2N4P6R8T0V2W4", "dlm_version: 15", "base_model: smollm2-135m", "---", "x"]
    old = end.join([*head, *lines]).encode()
    if read(old, "a.dlm").errors:  # a code block that is never closed
        return
    new = migrated(old)
    assert as_data(parse_bytes(new, "a.dlm")) == as_data(parse_bytes(old, "a.dlm"))
    assert ids(new) == ids(old)
    assert len(new.split(end.encode())) == len(old.split(end.encode()))


def test_a_diff_of_a_large_document_is_short() -> None:
    text = FIRST.replace("A line of text.\n", "text\n" * 200_000)
    shown = unified_diff(text, migration(text.encode(), "a.dlm"), "a.dlm")
    assert len(shown.splitlines()) < 40
    assert re.findall(r"^@@ .*", shown, re.MULTILINE) == ["@@ -4,14 +4,13 @@", "@@ -200014,7 +200013,7 @@"]


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_what_nobody_else_may_read_stays_so(workshop: Workshop, mode: int) -> None:
    path = workshop.folder / "book.dlm"
    path.write_text(FIRST)
    path.chmod(mode)
    workshop.dlm("migrate", "--write", "book.dlm")
    assert {found.stat().st_mode & 0o777 for found in (path, workshop.folder / "book.dlm.bak")} == {mode}


def test_a_diff_of_a_text_without_a_last_newline_is_one_that_patch_takes(tmp_path: Path) -> None:
    for text, old, new in (("a\nb\nc", "c", "d"), ("a\nb", "a", "x"), ("a\nb\n", "b", "x")):
        at = text.index(old)
        diff = unified_diff(text, [Edit(at, at + 1, new)], "t")
        (tmp_path / "t").write_text(text)
        subprocess.run(["patch", "--quiet", "t"], cwd=tmp_path, input=diff, text=True, check=True)
        assert (tmp_path / "t").read_text() == text.replace(old, new)


def test_a_diff_ends_as_its_text_does() -> None:
    """Last lines with and without an end, and edits on them."""
    for text, end in (("a\nb\n", ""), ("a\nb", "\\ No newline at end of file\n")):
        assert unified_diff(text, [Edit(2, 3, "c")], "x") == f"--- x\n+++ x\n@@ -1,2 +1,2 @@\n a\n-b\n{end}+c\n{end}"


def test_a_large_document_costs_little_more_than_its_check(workshop: Workshop) -> None:
    text = FIRST.replace("The end. \t\n", "::instruction::\n### Q\nq\n### A\n\ta\n" * 30_000)
    (workshop.folder / "old.dlm").write_text(text)
    dlm = str(SCRIPTS / "dlm")
    check, migrate = (
        cost([dlm, *words], workshop.folder, workshop.env()) for words in (["check"], ["migrate", "--write"])
    )
    assert migrate.cpu < 6 * check.cpu and migrate.peak < 3 * check.peak
    assert (workshop.folder / "old.dlm").read_text().count("\t") == text.count("\t")


def test_a_document_that_cannot_be_written_keeps_no_other_from_it(workshop: Workshop) -> None:
    long = "a" * 250  # with .bak at its end it is longer than a name may be
    for name in (long, "b"):
        (workshop.folder / f"{name}.dlm").write_text(FIRST)
    ran = workshop.dlm("migrate", "--write", code=1)
    assert ran.err == (
        f"{long}.dlm: the file cannot be written: File name too long\n"
        "  → make its folder writable, on a disk with room\n"
    )
    assert ran.out == "b.dlm is at version 16 now; as it was: " + str(workshop.folder / "b.dlm.bak") + "\n"
    assert (workshop.folder / f"{long}.dlm").read_text() == FIRST and (workshop.folder / "b.dlm").read_text() == NEWEST
