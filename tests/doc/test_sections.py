from __future__ import annotations

from collections.abc import Callable
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlmbuild.doc import headers
from dlmbuild.doc.body import read_sections
from dlmbuild.doc.document import Document
from dlmbuild.doc.mistakes import Mistakes
from dlmbuild.doc.sections import Instruction, Pair, Preference, Prose, Triple
from dlmbuild.errors import InvalidDocument

Found = Callable[[str], list[tuple[int, int, str]]]
WithBody = Callable[[str], Document]


def test_sections_with_lines(with_body: WithBody) -> None:
    body = """
# Title

::instruction::

### Q
How?

So?
### A
  Thus.
### Q !probe
Why?
### A
Because.

::preference::
### Prompt
p
### Chosen
c
### Rejected
r
::prose::

The end.
"""
    assert with_body(body).sections == (
        Prose("# Title", None, 7),
        Instruction(
            (
                Pair("How?\n\nSo?", "  Thus.", False, 11, 15),
                Pair("Why?", "Because.", True, 17, 19),
            ),
            None,
            9,
        ),
        Preference((Triple("p", "c", "r", 23, 25, 27),), None, 22),
        Prose("The end.", None, 29),
    )


@pytest.mark.parametrize(
    ("below", "mistakes"),
    [
        ("", [(6, 1, "this ::instruction:: section is empty")]),
        ("\n  \n", [(6, 1, "this ::instruction:: section is empty")]),
        ("text", [(7, 1, "text before the first ### Q")]),
        ("\ntext\n### Q\nq\n### A\na", [(8, 1, "text before the first ### Q")]),
        ("### Q\nq", [(7, 1, "### Q without a ### A after it")]),
        ("### A\na", [(7, 1, "### A without a ### Q before it")]),
        ("### Q\nq\n### Q\nq\n### A\na", [(7, 1, "### Q without a ### A after it")]),
        ("### Answer\na", [(7, 1, 'badly written header "### Answer"')]),
        ("### Answer\na\n### A\na\n### Q\nq\n### A\na", [(7, 1, 'badly written header "### Answer"')]),
        ("### Q\nq\n### A\na\n### A\na", [(11, 1, "### A without a ### Q before it")]),
        ("### Q\nq\n### A\na\n### A", [(11, 1, "### A is empty"), (11, 1, "### A without a ### Q before it")]),
        (
            "### Q\nq\n### A\na\n### Q\n::prose::\nx",
            [(11, 1, "### Q is empty"), (11, 1, "### Q without a ### A after it")],
        ),
        ("### Q\n\n### A\na", [(7, 1, "### Q is empty")]),
        ("### Q\nq\n### A\n \u00a0\n", [(9, 1, "### A is empty")]),
        ("###Q\nq\n### A\na", [(7, 1, 'badly written header "###Q"')]),
        ("### q\nq\n  ### a\na", [(7, 1, 'badly written header "### q"'), (9, 3, 'badly written header "### a"')]),
        ("### Q:\nq\n### A\na", [(7, 1, 'badly written header "### Q:"')]),
        ("### Q: How?\n### A\na", [(7, 1, 'badly written header "### Q: How?"')]),
        (
            "### Q1\nq\n### A 1.\na",
            [(7, 1, 'badly written header "### Q1"'), (9, 1, 'badly written header "### A 1."')],
        ),
        ("### Q ###\nq\n### A\na", [(7, 1, 'badly written header "### Q ###"')]),
        (
            "### Question\nq\n### Answer\na",
            [(7, 1, 'badly written header "### Question"'), (9, 1, 'badly written header "### Answer"')],
        ),
        ("### Q\nq\n### \u0410\na", [(9, 1, 'badly written header "### \u0410"')]),
        (
            "### \u051a\nq\n### \u0391nswer\na",
            [(7, 1, 'badly written header "### \u051a"'), (9, 1, 'badly written header "### \u0391nswer"')],
        ),
        (
            "### \uff31\nq\n\uff03\uff03\uff03 A\na",
            [(7, 1, 'badly written header "### \uff31"'), (9, 1, 'badly written header "\uff03\uff03\uff03 A"')],
        ),
        ("### Q\nq\n### Answ3r\na", [(9, 1, 'badly written header "### Answ3r"')]),
        ("### Q !Probe\nq\n### A\na", [(7, 1, 'badly written header "### Q !Probe"')]),
        ("### Q!probe\nq\n### A\na", [(7, 1, 'badly written header "### Q!probe"')]),
        ("### Q\nq\n### A !probe\na", [(9, 1, 'badly written header "### A !probe"')]),
    ],
)
def test_instruction_mistakes(found: Found, head: str, below: str, mistakes: list[object]) -> None:
    body = f"::instruction::\n{below}"
    assert found(head + body) == mistakes


@pytest.mark.parametrize(
    ("header", "meant"), [("### Q !prob", "### Q !probe"), ("### q", "### Q"), ("### A !probe", "### A")]
)
def test_a_badly_written_header_is_answered_with_what_is_meant(header: str, meant: str, with_body: WithBody) -> None:
    below = f"{header}\nq\n### A\na" if "A" not in header else f"### Q\nq\n{header}\na"
    with pytest.raises(InvalidDocument) as caught:
        with_body(f"::instruction::\n{below}")
    assert caught.value.errors[0].do.startswith(f"write {meant};")


@pytest.mark.parametrize(
    ("below", "mistakes"),
    [
        ("", [(6, 1, "this ::preference:: section is empty")]),
        ("### Prompt\np\n### Chosen\nc", [(9, 1, "### Chosen without a ### Rejected after it")]),
        ("### Prompt\np\n### Rejected\nr\n### Chosen\nc", [(7, 1, "### Prompt without a ### Chosen after it")]),
        ("### Chosen\nc\n### Rejected\nr", [(7, 1, "### Chosen without a ### Prompt before it")]),
        (
            "### Prompt\np\n### Chosen\nc\n### Rejected\nr\n### Rejected\n::prose::\nx",
            [(13, 1, "### Rejected is empty"), (13, 1, "### Rejected without a ### Prompt before it")],
        ),
        (
            "### Prompt\np\n### chosen\nc\n### Rejected\n",
            [(9, 1, 'badly written header "### chosen"'), (11, 1, "### Rejected is empty")],
        ),
        ("### Prompt !probe\np\n### Chosen\nc\n### Rejected\nr", [(7, 1, 'badly written header "### Prompt !probe"')]),
    ],
)
def test_preference_mistakes(found: Found, head: str, below: str, mistakes: list[object]) -> None:
    assert found(f"{head}::preference::\n{below}") == mistakes


@pytest.mark.parametrize(
    "answer",
    [
        "    indented code\n  less",
        "one\n\n\ntwo",
        "```\n### Q\n::instruction::\n### A\n```",
        "## A\n#### Q\n### A guide to leave\n### Prompt\n# Q",
        "    ### Q",
        "one\u2028two\x85three\x0cfour\x0bfive\x1csix",
        "hard break  \nnext line",
        "\ttabbed",
    ],
)
def test_answers_kept_as_written(with_body: WithBody, answer: str) -> None:
    document = with_body(f"::instruction::\n### Q\nq\n### A\n\n{answer}  \n \n")
    assert document.sections[0].pairs[0].answer == answer  # type: ignore[union-attr]


def test_header_is_a_markdown_heading(with_body: WithBody) -> None:
    (section,) = with_body("::instruction::\n   ### Q \t\nq\n###  A\na").sections
    assert section.pairs == (Pair("q", "a", False, 7, 9),)  # type: ignore[union-attr]


def test_empty_prose_is_no_section(with_body: WithBody) -> None:
    assert len(with_body("\n::prose::\n \n::prose::\nx").sections) == 1


@pytest.mark.parametrize(
    ("body", "mistakes"),
    [
        ("### Q\nq\n### A\na", [(6, 1, "### Q in a ::prose:: section"), (8, 1, "### A in a ::prose:: section")]),
        ("# T\n\n  ### Q !probe\nq", [(8, 3, "### Q in a ::prose:: section")]),
        ("::instruction::\n### Q\nq\n### A\na\n::prose::\n### A", [(12, 1, "### A in a ::prose:: section")]),
    ],
)
def test_questions_without_their_fence(found: Found, head: str, body: str, mistakes: list[object]) -> None:
    assert found(head + body) == mistakes


@pytest.mark.parametrize(
    "prose",
    [
        "### A\nApple\n### B\nBanana\n### Q\nQuince",
        "```\n### Q\n### A\n```",
        "### Questions\n### A guide\n### Question\n### A: the first letter\n#### Q\n## A",
        "### Prompt\nx",
    ],
)
def test_headings_of_prose(with_body: WithBody, prose: str) -> None:
    assert with_body(prose).sections == (Prose(prose, None, 6),)


@pytest.mark.parametrize(
    ("header", "col"),
    [("### Q\u200b", 1), ("\u200b### Q", 2), ("###\u200b Q", 1), ("### \ufeffQ", 1), ("### Q \u2060!", 1)],
)
def test_invisible_characters_hide_no_header(found: Found, head: str, header: str, col: int) -> None:
    (mistake,) = found(f"{head}::instruction::\n### Q\nq\n### A\na\n{header}\nq\n### A\na")
    assert mistake[:2] == (11, col) and mistake[2].startswith("badly written header")


_QUESTIONS = ["### Q", "### A", "### A", "q", "a b", "", "    c", "### Q !probe", "### Q:", "## B", "### B", " ", "```"]
_ANSWERS = ["### Prompt", "### Chosen", "### Rejected", "p", "", "  c", "### prompt", "### Q", "\\### Chosen", "```"]


@settings(max_examples=500, deadline=None)
@given(
    st.tuples(st.just("::instruction::"), st.lists(st.sampled_from(_QUESTIONS), max_size=12))
    | st.tuples(st.just("::preference::"), st.lists(st.sampled_from(_ANSWERS), max_size=12))
)
def test_the_short_way_through_a_section_finds_the_same(section: tuple[str, list[str]]) -> None:
    def read() -> object:
        mistakes = Mistakes("a.dlm")
        text = "\n".join([section[0], *section[1]])
        return read_sections("\n" + text, 1, 2, mistakes, escapes=True), [str(mistake) for mistake in mistakes]

    quick = read()
    with mock.patch.object(headers, "_plain_groups", lambda grammar, block: None):
        assert read() == quick
