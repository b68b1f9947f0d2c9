from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable

import pytest

from dlmbuild.doc.document import Document, parse_text
from dlmbuild.errors import InvalidDocument, Where

Found = Callable[[str], list[tuple[int, int, str]]]
WithBody = Callable[[str], Document]


@pytest.mark.parametrize(
    ("line", "col", "what"),
    [
        ("::instruction:: ", 16, "white space after a section fence"),
        ("::instruction::\t", 16, "white space after a section fence"),
        ("::instruction:: x", 16, '" x" after a section fence'),
        (" ::prose::", 1, "white space before a section fence"),
        ("\t::prose::", 1, "white space before a section fence"),
        ("\u00a0::prose::", 1, "white space before a section fence"),
        ("\ufeff::prose::", 1, "white space before a section fence"),
        ("\x01::prose::", 1, "white space before a section fence"),
        ("\U000e0041::prose::", 1, "white space before a section fence"),
        ("::Instruction::", 3, 'unknown section type "Instruction"'),
        ("::INSTRUCTION::", 3, 'unknown section type "INSTRUCTION"'),
        ("::instuction::", 3, 'unknown section type "instuction"'),
        ("::note::", 3, 'unknown section type "note"'),
        ("::std::vector<int> x;", 3, 'unknown section type "std"'),
        ("::instruction", 14, "::instruction without its closing ::"),
        ("::instruction:", 14, "::instruction without its closing ::"),
        ("::instruction ", 14, "::instruction without its closing ::"),
        ("::prose#::", 9, 'adapter name ""'),
        ("::prose#Knowledge::", 9, 'adapter name "Knowledge"'),
        ("::prose#a-b::", 9, 'adapter name "a-b"'),
        ("::prose#" + "a" * 33 + "::", 9, f'adapter name "{"a" * 33}"'),
        ("::prose#a b::", 11, 'unexpected "b::"'),
        ('::prose path="x"::', 9, 'unknown attribute "path" of ::prose'),
        ("::image::", 8, "::image without path"),
        ('::image path=""::', 16, "::image without path"),
        ('::image pth="x"::', 9, 'unknown attribute "pth" of ::image'),
        ('::image path="x" path="y"::', 18, 'attribute "path" a second time'),
        ('::image path="x"', 17, "::image without its closing ::"),
        ('::image path="x::', 9, 'unexpected "path=\\"x::"'),
        ('::image path="x"alt="y"::', 17, 'unexpected "alt=\\"y\\"::"'),
        ("::image path=x::", 9, 'unexpected "path=x::"'),
        ('::audio path="x"::', 17, "::audio without transcript"),
    ],
)
def test_nearly_a_fence(found: Found, head: str, line: str, col: int, what: str) -> None:
    mistakes = found(f"{head}text\n{line}\nmore text")
    assert (7, col, what) in mistakes
    empty = {
        "this ::instruction:: section is empty",
        "text before the first ### Q",
        "an ::image:: section",
        "an ::audio:: section",
    }
    assert {other for *_, other in mistakes} <= {what} | empty


@pytest.mark.parametrize(
    "line",
    [
        "::: note",
        "::: Warning ::::::",
        ":::note:::",
        ":::tip",
        "a::b::",
        ":smile: hello",
        ":construction:",
        ":param x: the place",
        ":returns:",
        ": instruction",
        ": image",
        ":",
        ":instruction: is what it is called",
        "::: instruction for new members",
        "：注意",
        "：：注意事项",
        ":" * 80,
        "::",
        "::1::",
        "::1",
        "::1/128 is the machine itself",
        "::2001:db8::",
        "std::vector::iterator",
        "std::image::load",
        ":100:",
        ":-)",
        "::<T>::new()",
        "::|::",
        "::4d::",
        "\u0903 image",
        "\u1361\u1361",
        ":: a.b ::",
        "    ::prose::",
        "> ::prose::",
        "- ::prose::",
        "`::prose::`",
    ],
)
def test_plain_text(with_body: WithBody, line: str) -> None:
    assert with_body(f"text\n{line}").sections[0].text == f"text\n{line}"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("line", "col", "meant"),
    [
        (":: instruction ::", 1, "::instruction::"),
        (":::instruction:::", 1, "::instruction::"),
        (":instruction::", 1, "::instruction::"),
        (":instruction:", 1, "::instruction::"),
        (":: instruction", 1, "::instruction::"),
        ("::: Instruction", 1, "::instruction::"),
        ("  :: Preference::", 3, "::preference::"),
        (":: prose #en ::", 1, "::prose#en::"),
        (":: instuction ::", 1, "::instruction::"),
        (":::instuction:::", 1, "::instruction::"),
        (":: note ::", 1, "::prose::"),
        (':: image path="a.png" ::', 1, '::image path="a.png"::'),
        ("\uff1a\uff1ainstruction\uff1a\uff1a", 1, "::instruction::"),
        ("\uff1a\uff1a\uff49nstruction::", 1, "::instruction::"),
        (":\ufe55instruction\ua789:", 1, "::instruction::"),
        ("\u2237instruction\u2237", 1, "::instruction::"),
        (":\u200b:instruction::", 1, "::instruction::"),
        ("\u200b\u2060: :instruction::", 3, "::instruction::"),
        ("::\u0456nstruction::", 1, "::instruction::"),
        ("::\u200binstruction::", 1, "::instruction::"),
        ("::\ufe0finstruction::", 1, "::instruction::"),
        ("::1nstruction::", 1, "::instruction::"),
        ("::1nstruction", 1, "::instruction::"),
        ("::1nstruct10n::", 1, "::instruction::"),
        ("::|mage::", 1, "::image::"),
        ("::4udio::", 1, "::audio::"),
        ("::1nstrution#en::", 1, "::instruction#en::"),
        ("::\u0440\u0433\u043e\u0455\u0435::", 1, "::prose::"),
        ("::\u03c1\u03c1\u03bf\u0455\u03b5::", 1, "::prose::"),
        ("::\U0001d429\U0001d42b\U0001d428\U0001d42c\U0001d41e::", 1, "::prose::"),
        ("::\u0440\u0301rose::", 1, "::prose::"),
        ("::\uff29\uff2d\uff21\uff27\uff25::", 1, "::image::"),
        ("\u2e2cinstruction\u2e2c", 1, "::instruction::"),
        (':\u0903image path="\u0430.png"::', 1, '::image path="\u0430.png"::'),
    ],
)
def test_what_looks_like_a_fence(head: str, line: str, col: int, meant: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        parse_text(f"{head}text\n{line}\n### Q\nq\n### A\na\n### Prompt\np", "handbook.dlm")
    (error, *_) = caught.value.errors
    assert error.where == Where("handbook.dlm", 7, col)
    assert error.what.startswith("badly written section fence")
    assert error.do == f"write {meant}, or put the line into a code block to show it"


# Prototype ":" in Unicode's confusables.txt, version 15.1.
CONFUSABLE = "\u0903\u0a83\uff1a\u0589\u0703\u0704\u16ec\ufe30\u1803\u1809\u205a\u05c3\u02f8\ua789\u2236\u02d0\ua4fd"
NAMED = [
    char
    for char in map(chr, range(128, sys.maxunicode))
    if re.search(r"(?<!SEMI)(?<!TAG )(?<!EQUALS )\bCOLON( SKEWED (LEFT|RIGHT))?$", unicodedata.name(char, ""))
]


@pytest.mark.parametrize("colon", sorted({*CONFUSABLE, *NAMED, "\u1361", "\u1366"}), ids=ascii)
def test_whatever_looks_like_a_colon(found: Found, head: str, colon: str) -> None:
    for line in (f"{colon}{colon}prose{colon}{colon}", f":{colon}prose::", f"::pr\u043ese{colon}:"):
        (mistake,) = found(f"{head}text\n{line}\nmore text")
        assert mistake[:2] == (7, 1 if line[2] != "p" or line[0] != ":" else mistake[1]), line


@pytest.mark.parametrize("end", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029"], ids=ascii)
def test_a_fence_behind_what_ends_no_line(found: Found, head: str, end: str) -> None:
    name = f"the character U+{ord(end):04X} before"
    text = f"text\nmore{end}::instruction::{end}### Q !probe\n```\n{end}::prose::\n```\nx{end}::y::"
    assert found(head + text) == [(7, 5, f'{name} "::instruction::"'), (7, 21, f'{name} "### Q !probe"')]
    assert found(f'{head}a{end} ::image#x path="b"::') == [(6, 2, f'{name} "::image#x path=\\"b\\"::"')]


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("::instrction::", "::instruction::"),
        ("::instrction", "::instruction::"),
        ("::instrction::  ", "::instruction::"),
        ("::Instruction::", "::instruction::"),
        ("::instuction:: x", "::instruction::"),
        ("::pros#en::", "::prose#en::"),
        ("::imag::", '::image path="…"::'),
        ('::imgae path="a: b.png"::', '::image path="a: b.png"::'),
        ("::image::", '::image path="…"::'),
        ('::image alt="x"::', '::image alt="x" path="…"::'),
        ('::audio#en path="a.wav"::', '::audio#en path="a.wav" transcript="…"::'),
        ('::audio path="" transcript="hm"::', '::audio transcript="hm" path="…"::'),
    ],
)
def test_the_advice_is_what_to_type(head: str, line: str, meant: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        parse_text(f"{head}text\n{line}\n### Q\nq\n### A\na", "handbook.dlm")
    told = [error.do for error in caught.value.errors if error.where and error.where.line == 7]
    assert f"write {meant}, or put the line into a code block to show it" in told


@pytest.mark.parametrize(
    "block",
    [
        "```\n::prose::\n```",
        "~~~\n::note::\n~~~",
        "````\n```\n::prose::\n```\n````",
        "```\n~~~\n::prose::\n```",
        "~~~\n```\n::prose::\n~~~~~",
        "   ```\n::prose::\n  ```",
        "```python title=x\n::prose::\n```",
        "~~~ a `tick`\n::prose::\n~~~",
        "```\n::prose::\n``` no closer\n::prose::\n```  \t",
        "```\n    ```\n::prose::\n```",
        "````\n```\n````",
        "```\n\n   \n```",
    ],
)
def test_code_blocks_are_content(with_body: WithBody, block: str) -> None:
    sections = with_body(f"before\n{block}\nafter\n::prose::\nlast").sections
    assert [section.text for section in sections] == [f"before\n{block}\nafter", "last"]  # type: ignore[union-attr]


@pytest.mark.parametrize("line", ["```x```", "``` `", "``", "    ```", "\t```", "x ```", "> ```"])
def test_no_code_block(with_body: WithBody, line: str) -> None:
    assert len(with_body(f"{line}\n::prose::\nlast").sections) == 2


@pytest.mark.parametrize(
    ("body", "line", "col"),
    [
        ("text\n```\ncode", 7, 1),
        ("  ~~~\n```", 6, 3),
        ("````\n```", 6, 1),
        ("::instruction::\n### Q\nx\n### A\n```\n::prose::\n", 10, 1),
    ],
)
def test_unclosed_code_block(found: Found, head: str, body: str, line: int, col: int) -> None:
    assert found(head + body) == [(line, col, "this code block is never closed")]


def test_a_section_names_an_adapter_that_there_is_and_each_adapter_is_trained(found: Found, head: str) -> None:
    named = head.replace("---\n", "---\ntraining: {adapters: {en: {}, de: {}}}\n", 1)
    pair = "### Q\nx\n### A\ny\n"
    assert parse_text(f"{named}x\n::instruction#de::\n{pair}", "book.dlm").sections[1].adapter == "de"
    assert found(f"{named}::instruction::\n{pair}::prose#den::\nz\n") == [(12, 8, "a section for the adapter den")]
    assert found(f"{named}::instruction::\n{pair}") == [(2, 31, "training.adapters.de learns nothing")]


def test_undeclared_adapters_and_media_are_refused(found: Found, head: str) -> None:
    body = '::prose#en::\nx\n::instruction#en::\n### Q\nx\n### A\ny\n::image path="a.png" alt="é"::\ncaption\n'
    body += '::audio path="a.wav" transcript="hm"::\n'
    assert found(head + body) == [
        (6, 8, "a section for the adapter en"),
        (8, 14, "a section for the adapter en"),
        (13, 1, "an ::image:: section"),
        (15, 1, "an ::audio:: section"),
    ]
