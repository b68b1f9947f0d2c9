"""The ids of sections, as the public format makes them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from dlmbuild.doc.document import Document, parse_text, read

WithBody = Callable[[str], Document]
HEAD = "---\ndlm_id: 01HZX3Q5J8K9M2N4P6R8T0V2W4\ndlm_version: 15\nbase_model: smollm2-135m\n---\n"


def public(kind: str, content: str) -> str:
    return hashlib.sha256(f"{kind}\n{content}".encode()).hexdigest()[:16]


def test_ids_are_made_of_type_and_content(with_body: WithBody) -> None:
    body = "\n# Title\n\ntext\n\n::instruction#en::\n### Q\nq\n### A\na\n\n\n::prose::\n\n  x  \n\n".replace("#en", "")
    found = with_body(body).body
    assert [found.section_id(number) for number in range(3)] == [
        public("prose", "# Title\n\ntext\n"),
        public("instruction", "### Q\nq\n### A\na\n\n"),
        public("prose", "\n  x  \n"),
    ]


@pytest.mark.parametrize("body", ["x", "x\n", "\nx", "\nx\n", "::prose::\nx", "::prose::\nx\n", "\n::prose::\nx"])
def test_the_ends_of_a_body(with_body: WithBody, body: str) -> None:
    assert with_body(body).body.section_id(0) == public("prose", "x")


def test_line_ends_leave_no_trace(with_body: WithBody) -> None:
    ids = {
        parse_text("\ufeff" + (HEAD + "a\nb\n").replace("\n", end), "a.dlm").body.section_id(0)
        for end in ("\n", "\r\n", "\r")
    }
    assert ids == {public("prose", "a\nb")}


def test_an_edited_section_is_another_one(with_body: WithBody) -> None:
    assert with_body("a b").body.section_id(0) != with_body("a  b").body.section_id(0)


def test_media_sections_are_named_by_path_and_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"picture")
    sha256 = hashlib.sha256(b"picture").hexdigest()
    body = '::image path="a.png" alt="x"::\ncaption\n::image path="none.png"::\n::audio path="." transcript="t"::\n'
    found = read((HEAD + body).encode(), "a.dlm", tmp_path)
    assert found.body.section_id(0) == public("image", "a.png")
    assert found.body.section_id(0, sha256) == public("image", f"a.png\n{sha256}")
    told = [(error.where.line, error.where.col, error.what, error.why) for error in found.errors if error.where]
    why = "no base that this version builds on reads it"
    assert told == [
        (6, 1, "an ::image:: section", why),
        (8, 1, "an ::image:: section", why),
        (8, 15, 'the file "none.png" cannot be read', "there is none"),
        (9, 1, "an ::audio:: section", why),
        (9, 15, 'the file "." cannot be read', "it is no file"),
    ]
