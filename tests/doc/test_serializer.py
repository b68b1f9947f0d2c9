"""parse ∘ serialize is the identity, on what a document says and on the ids of its sections."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dlmbuild.doc.document import Reading, parse_text, read
from dlmbuild.doc.markers import Marker
from dlmbuild.doc.sections import Instruction, Media, Pair, Preference, Prose, Section, Triple
from tests.doc.serializer import document_text, escaped, section_text

HEAD = "---\ndlm_id: 01HZX3Q5J8K9M2N4P6R8T0V2W4\ndlm_version: 16\nbase_model: smollm2-135m\n---\n"

NASTY = [
    "::prose::", "::note::", ":: instruction ::", ":instruction::", "\uff1a\uff1aprose\uff1a\uff1a", "\\::prose::",
    "\\\\::x", "### Q", "### A", "  ### Q !probe", "### q:", "### Prompt", "### Chosen", "\u200b### A", "\\### Q",
    "```", "````", "~~~", "  ```x", "\\```",
    "<!-- dlm-auto-harvest: source=\"x\" -->", "---", "x", "    y", "", "### B",
    ":smile: hi", "\\alpha", "a\u2028b", "`` ` ``", "\ufeff::prose::", "### Q\u200b", ":", "#", "::", "\\",
    "::1nstruction::", "\u1361\u1361prose::", "::\u0440r\u043ese::", "### \u0410", "\uff03\uff03\uff03 Q",
    "\\\uff03\uff03\uff03 A",
    "### \u0391nswer", "### \u00c5", "a\u2028b ::c::", "\ufe0f::image::", "::1",
]  # fmt: skip
LINES = st.sampled_from(NASTY) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\r\0"), max_size=8
)


def as_read(lines: list[str]) -> str:
    """A text as parsing leaves it: no blank lines around it, no white space behind it or on blank lines."""
    return re.sub(r"(?m)^\s+$", "", "\n".join(lines).replace("\r", "\n")).strip("\n").rstrip()


TEXTS = st.lists(LINES, min_size=1, max_size=6).map(as_read).filter(bool)
HARVEST = st.just(Marker("harvest", {"source": "a/b"}))
PAIRS = st.builds(Pair, TEXTS, TEXTS, st.booleans(), st.just(0), st.just(0))
TRIPLES = st.builds(Triple, TEXTS, TEXTS, TEXTS, st.just(0), st.just(0), st.just(0))
ADAPTERS = st.none() | st.just("en")
MARKERS = st.lists(HARVEST, max_size=2).map(tuple)
SECTIONS = st.one_of(
    st.builds(Prose, TEXTS, ADAPTERS, st.just(0)),
    st.builds(Instruction, st.lists(PAIRS, min_size=1, max_size=3).map(tuple), ADAPTERS, st.just(0), MARKERS),
    st.builds(Preference, st.lists(TRIPLES, min_size=1, max_size=2).map(tuple), ADAPTERS, st.just(0), MARKERS),
    st.builds(Media, st.just("image"), st.just("a b.png"), st.just("é"), st.just(""), TEXTS, ADAPTERS, st.just(0)),
)


def without_lines(value: Any) -> Any:
    if isinstance(value, Marker):
        return value.kind, value.attributes
    if isinstance(value, tuple):
        return (type(value).__name__, *(without_lines(item) for item in value if type(item) is not int))
    return value


def said(found: Reading) -> object:
    return [without_lines(section) for section in found.body.sections]


def ids(found: Reading) -> list[str]:
    return [found.body.section_id(number) for number in range(len(found.body.sections))]


def read_back(text: str) -> Reading:
    found = read(text.encode(), "a.dlm")
    waiting = ("a section for the adapter", "an ::image:: section")  # of another version; no mistakes in the text
    assert [str(error) for error in found.errors if not error.what.startswith(waiting)] == []
    return found


@settings(max_examples=400, deadline=None)
@given(st.lists(SECTIONS, min_size=1, max_size=4))
@example([Instruction((Pair("```", "### A", False, 0, 0), Pair("::x::", "~~~\n::a", True, 0, 0)), None, 0)])
def test_written_sections_read_back_as_the_same(sections: list[Section]) -> None:
    found = read_back(HEAD + "".join(map(section_text, sections)))
    assert said(found) == [without_lines(section) for section in sections]
    assert found.head and found.head.values
    again = read_back(document_text(found.head.values, found.body))
    assert (said(again), ids(again)) == (said(found), ids(found))
    assert again.head and again.head.values == found.head.values


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*NASTY, "::instruction::", "### Q", "### A", "x", "x"]), max_size=14), st.booleans())
def test_documents_read_back_as_the_same(lines: list[str], newest: bool) -> None:
    text = (HEAD if newest else HEAD.replace("16", "15")) + "\n".join(lines)
    found = read(text.encode(), "a.dlm")
    if not found.errors and found.head and found.head.values:
        again = read_back(document_text(found.head.values, found.body))
        assert (said(again), ids(again)) == (said(found), ids(found))


@pytest.mark.parametrize(
    "keys",
    [
        'system_prompt: "  a\\n\\n b # \\"c\\": \\u00e9 \\U0001F600"',
        "system_prompt: |\n  two\n    lines",
        'system_prompt: "true"',
        "training: {seed: 7, learning_rate: 2e-4, target_modules: [q_proj, 'a,b'], precision: null}",
        "training:\n  preference: {enabled: false}\n  seed: 42",
        "training:\n  sources: [{path: '123', include: ['*.md', 'a: b']}]",
        "export: {default_quant: F16, default_temperature: 0}",
        "export:\ntraining:",
    ],
)
def test_frontmatter_reads_back_as_the_same(keys: str) -> None:
    document = parse_text(HEAD.replace("base_model", f"{keys}\nbase_model") + "x", "a.dlm")
    again = parse_text(document_text(document.frontmatter, document.body), "a.dlm")
    assert again.frontmatter == document.frontmatter
    assert again.frontmatter.model_fields_set == document.frontmatter.model_fields_set
    assert again.frontmatter.training.model_fields_set == document.frontmatter.training.model_fields_set


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("plain\n\\alpha", "plain\n\\alpha"),
        ("::prose::", "\\::prose::"),
        (":smile: hello", ":smile: hello"),
        ("\\::prose::", "\\\\::prose::"),
        ("### Q\n### Question 1\n### A guide", "\\### Q\n\\### Question 1\n### A guide"),
        ("```\n### Q\n```", "```\n### Q\n```"),
        ("```\n### Q", "\\```\n\\### Q"),
        ("```\nx\n```\n```", "```\nx\n```\n\\```"),
    ],
)
def test_only_what_needs_it_is_escaped(text: str, lines: str) -> None:
    assert escaped(text) == lines


def test_what_an_attribute_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        section_text(Media("image", 'a".png', "", "", "", None, 0))
