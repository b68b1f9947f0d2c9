"""What docs/format.md says is true: its documents are read, its mistakes are told, its table has every key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dlmbuild.doc.document import parse, parse_text, read
from dlmbuild.doc.schema import Block, Frontmatter, block_in, expectation
from dlmbuild.doc.sections import Prose
from dlmbuild.doc.versions import NEWEST_VERSION
from tests.workshop import Workshop

REPOSITORY = Path(__file__).parent.parent
PAGES = {path.name: path.read_text("utf-8") for path in (REPOSITORY / "README.md", REPOSITORY / "docs" / "format.md")}
FORMAT = PAGES["format.md"]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


EXAMPLES = [(name, number, block) for name in PAGES for number, block in enumerate(blocks(PAGES[name], "dlm"))]


def key_table(block: type[Block] = Frontmatter, home: str = "") -> Iterator[str]:
    """The rows of the table in docs/format.md."""
    for name, field in block.model_fields.items():
        inner, deeper = block_in(field.annotation)
        if not inner or deeper:
            without = "required" if field.is_required() else field.default
            if isinstance(without, bool):
                without = str(without).lower()
            elif without in (None, (), ("**/*",)):
                without = {None: "", (): "none", ("**/*",): "`**/*`"}[without]
            yield f"| `{home}{name}` | {expectation(field)} | {without} |"
        if inner:
            named = {0: ".", 1: "[]." if "tuple" in str(field.annotation) else ".NAME."}[deeper]
            yield from key_table(inner, f"{home}{name}{named}")


def test_the_table_of_keys_is_that_of_the_schema() -> None:
    expected = "\n".join(["| key | may be | without it |", "| --- | --- | --- |", *key_table()])
    assert expected in FORMAT, f"this belongs below `## The keys` in docs/format.md:\n{expected}"


def test_the_values_in_the_table_are_those_without_the_key() -> None:
    rows = re.findall(r"^\| `([\w.\[\]]+)` \| .*? \| (.*?) \|$", FORMAT.partition("## Sections")[0], re.MULTILINE)
    rows = [(key, value) for key, value in rows if value not in ("required", "") and "NAME" not in key]
    values = {"none": "[]", "`**/*`": "['**/*']"}
    bare = EXAMPLES[0][2].partition("system_prompt")[0]
    for key, value in rows:
        *blocks, last = key.split(".")
        written = f"{last}: {values.get(value, value)}"
        more = "training: {sources: [{path: a}]}\n" if "sources[]" in blocks else ""
        for block in reversed(blocks):
            written = f"sources: [{{path: a, {written}}}]" if block == "sources[]" else f"{block}: {{{written}}}"
        one, other = (parse_text(f"{bare}{keys}\n---\ntext", "book.dlm").frontmatter for keys in (written, more))
        assert one == other, key
    assert len(rows) > 35


def test_three_quotation_marks_in_a_system_prompt(workshop: Workshop) -> None:
    assert 'a line that ends in `"""`, unless it is the last one' in FORMAT
    for prompt, code in (('Say """', 0), ('Say """\n  ', 0), ('Say """\n  often.', 1)):
        workshop.document("book", base="smollm2-135m", more=f"system_prompt: |\n  {prompt}\n")
        said = workshop.dlm("check", code=code)
        assert ('book.dlm:5:16: system_prompt holds a line that ends in """' in said.err) == bool(code)


@pytest.mark.parametrize(("name", "number", "text"), EXAMPLES)
def test_documents_in_the_docs_are_well_written(name: str, number: int, text: str) -> None:
    found = read(text.encode(), "book.dlm")
    assert [str(error) for error in found.errors] == []
    assert found.head and found.head.version == NEWEST_VERSION


def test_there_are_examples_of_each_section() -> None:
    fences = {fence for _, _, text in EXAMPLES for fence in re.findall(r"^::([a-z]+)", text, re.MULTILINE)}
    assert fences == {"prose", "instruction", "preference"}
    for kind in ("image", "audio"):
        (fence,) = set(re.findall(rf"`(::{kind} .*?::)`", FORMAT))
        head = EXAMPLES[0][2].partition("---\n#")[0] + "---\n"
        told = read(f"{head}{fence}\n".encode(), "book.dlm").errors
        assert [error.what for error in told] == [f"an ::{kind}:: section"]


def test_mistakes_in_the_docs_are_told_as_there(workshop: Workshop) -> None:
    for wrong, told in zip(blocks(FORMAT, "dlm wrong"), blocks(FORMAT, "text"), strict=True):
        (workshop.folder / "book.dlm").write_text(wrong)
        assert workshop.dlm("check", code=1).err == told


@pytest.mark.parametrize("path", sorted((REPOSITORY / "examples").rglob("*.dlm")), ids=lambda path: path.name)
def test_examples_are_well_written(path: Path) -> None:
    assert parse(path).sections


def test_lines_that_the_docs_call_ordinary_or_refused() -> None:
    head = EXAMPLES[0][2].partition("---\n#")[0] + "---\n"
    refused, ordinary = re.findall(r"That holds\nfor (.*?)Ordinary text(.*?)\n\n", FORMAT, re.DOTALL)[0]
    for line in re.findall("`(.*?)`", refused):
        if line != "::instruction::":
            assert read(f"{head}x\n{line}\n".encode(), "book.dlm").errors, line
    for line in re.findall("`(.*?)`", ordinary):
        assert not read(f"{head}x\n{line}\n".encode(), "book.dlm").errors, line


def test_a_backslash_stands_behind_at_most_three_characters_of_white_space() -> None:
    assert "behind up to three characters of white space" in FORMAT
    head = EXAMPLES[0][2].partition("---\n#")[0] + "---\n"
    for before, escapes in (("", True), (" \t ", True), ("\t\t\t", True), ("    ", False)):
        [section] = parse_text(f"{head}x\n{before}\\::prose::\n", "book.dlm").sections
        assert isinstance(section, Prose) and section.text == f"x\n{before}{chr(92) * (not escapes)}::prose::"


def test_what_check_prints_as_json_is_what_the_docs_list(workshop: Workshop) -> None:
    workshop.document("book", base="smollm2-135m")
    workshop.document("train", base="smollm2-135m")
    book, train = json.loads(workshop.dlm("check", "--format", "json", code=1).out)["documents"]
    listed = FORMAT.partition("`dlm check --format json` prints")[2].partition("\n\n")[0]
    assert set(book) | set(train["errors"][0]) | set(book["sections"][0]) <= set(re.findall(r"`(\w+)`", listed))
    assert "such as its name, has line 0 and column 0" in " ".join(listed.split())
    assert [(error["line"], error["col"]) for error in train["errors"]] == [(0, 0)]


def test_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", FORMAT):
        assert (REPOSITORY / "docs" / target).exists(), target
