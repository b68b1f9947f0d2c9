"""From version 16 on a backslash makes text of a line that would be structure."""

from __future__ import annotations

import pytest

from dlmbuild.doc.document import parse_text
from dlmbuild.doc.sections import Instruction, Prose
from dlmbuild.errors import InvalidDocument

HEAD = "---\ndlm_id: 01HZX3Q5J8K9M2N4P6R8T0V2W4\ndlm_version: 16\nbase_model: smollm2-135m\n---\n"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("\\::prose::", "::prose::"),
        ("  \\::note::", "  ::note::"),
        ("\\\\::prose::", "\\::prose::"),
        ("\\\\\\::prose::", "\\\\::prose::"),
        ("\\: x", ": x"),
        ("\\\uff1a\uff1aprose", "\uff1a\uff1aprose"),
        ("\\### Q", "### Q"),
        ("\\\uff03\uff03\uff03 Q", "\uff03\uff03\uff03 Q"),
        ("\\\u1361: x", "\u1361: x"),
        ("\\```", "```"),
        ("\\~~~ x", "~~~ x"),
        ("\\# x", "\\# x"),
        ("\\alpha :", "\\alpha :"),
        ("a \\::prose::", "a \\::prose::"),
        ("    \\::prose::", "    \\::prose::"),
    ],
)
def test_escapes(line: str, text: str) -> None:
    document = parse_text(f"{HEAD}a\n{line}\nb", "a.dlm")
    assert document.sections == (Prose(f"a\n{text}\nb", None, 6),)
    assert document.body.content(0) == f"a\n{text}\nb"
    if line != text:
        older = parse_text(f"{HEAD.replace('16', '15')}a\n{line}\nb", "a.dlm")
        assert older.body.content(0) == f"a\n{line}\nb"


def test_in_a_code_block_a_backslash_is_a_backslash() -> None:
    text = "```\n\\::prose::\n```"
    assert parse_text(HEAD + text, "a.dlm").sections == (Prose(text, None, 6),)


def test_escapes_in_answers() -> None:
    body = "::instruction::\n### Q\n\\### Q\n### A\n\\```\n\n### Q\n  \\### A\n### A\nb \n"
    (section,) = parse_text(HEAD + body, "a.dlm").sections
    assert isinstance(section, Instruction)
    assert [(p.question, p.answer, p.line, p.answer_line) for p in section.pairs] == [
        ("### Q", "```", 7, 9),
        ("  ### A", "b", 12, 14),
    ]


@pytest.mark.parametrize("line", ["::note::", ":: instruction ::", "### Q\nq\n### A\na", "::prose:: x"])
def test_the_advice_is_that_of_the_version(line: str) -> None:
    for version, advice in [("15", "put the line into a code block to show it"), ("16", "put a backslash before it")]:
        with pytest.raises(InvalidDocument) as caught:
            parse_text(f"{HEAD.replace('16', version)}x\n{line}\n", "a.dlm")
        assert f", or {advice}" in caught.value.errors[0].do
    parse_text(f"{HEAD}x\n" + "\n".join(f"\\{part}" if part[0] in ":#" else part for part in line.split("\n")), "a.dlm")
