"""Each mistake that a document can have is told at its exact place, with what to do about it.

The table has a case for every line of the package that notes a mistake; which lines those are is read from the source.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

import dlmbuild.doc
from dlmbuild.doc.document import read
from dlmbuild.doc.mistakes import Mistakes
from dlmbuild.errors import BaseModelError, DlmError

FOLDER = Path(dlmbuild.doc.__file__).parent
MODULES = ("block", "body", "document", "fences", "frontmatter", "headers", "markers", "names", "versions")
NOTING = {"add", "note", "wrong", "_refuse", "_spoil"}

KEYS = "dlm_id: 01HZX3Q5J8K9M2N4P6R8T0V2W4\ndlm_version: 15\nbase_model: smollm2-135m\n"
HEAD = f"---\n{KEYS}---\n"
PAIR = "### Q\nq\n### A\na\n"
HARVEST = '<!-- dlm-auto-harvest: source="x" -->'


def keys(more: str, version: int = 15) -> str:
    """A document whose further keys begin on line 5."""
    return f"---\n{KEYS.replace('15', str(version))}{more}\n---\ntext\n"


def questions(line: str) -> str:
    """A document with this on line 7, below ::instruction:: and above a question with its answer."""
    return f"{HEAD}::instruction::\n{line}\n{PAIR}"


CASES: list[tuple[str, int, int, str]] = [
    # block
    ("---\na: 1\n...\nb: 1\n---\nx", 4, 1, "a second YAML document"),
    ("---\n- a\n---\nx", 2, 1, "this is not a block of keys"),
    (keys("system_prompt: a\x0cb"), 5, 17, "the character U+000C in YAML"),
    (keys("system_prompt: b: c"), 5, 17, "this is not YAML"),
    (keys('system_prompt: "\\UFFFFFFFF"'), 5, 1, "this is not YAML"),
    (keys("system_prompt: *a"), 5, 16, "alias *a"),
    (keys("system_prompt: &a x"), 5, 16, "anchor &a"),
    (keys("system_prompt: !x y"), 5, 16, "tag !x"),
    (keys("training: " + "[" * 9 + "]" * 9), 5, 18, "more than 8 levels of blocks"),
    (keys("? [a]\n: b"), 5, 3, "a key that is not a word"),
    (keys("system_prompt: a\nsystem_prompt: b"), 6, 1, 'key "system_prompt" a second time'),
    (keys('system_prompt: "\\0"'), 5, 16, "an escape for something that is not a character"),
    # frontmatter
    (f"---\n# {'x' * 300_000}\n{KEYS}---\nx", 2, 1, "the frontmatter is too long"),
    ("text\n", 1, 1, "the document has no frontmatter"),
    ("", 1, 1, "the file is empty"),
    ("--- \n", 1, 1, "white space beside the opening ---"),
    ("\n---\n", 1, 1, "blank lines before the opening ---"),
    (f"---\n{KEYS}--- \nx", 5, 4, "white space after the closing ---"),
    (f"---\n{KEYS}x", 1, 1, "the frontmatter has no closing ---"),
    ("---\ndlm_version: 15\nbase_model: x\n---\nx", 1, 1, 'missing key "dlm_id"'),
    (keys("training: {sources: [{include: [a]}]}"), 5, 22, 'missing key "path"'),
    (keys("training: {adapters: {En: {}}}"), 5, 23, '"En" is no name'),
    (keys("system_prompt: a\u00a0b"), 5, 16, "system_prompt holds the character U+00A0"),
    (keys("trainig: {}"), 5, 1, 'unknown key "trainig"'),
    (keys("training: {seed: x}"), 5, 18, 'training.seed is "x"'),
    (
        keys("training: {adapters: {en: {}, de: {}}}").removesuffix("text\n") + "::instruction::\n### Q\nx\n### A\ny\n",
        5,
        31,
        "training.adapters.de learns nothing",
    ),
    (keys("training: {gate: {steps: 7}}"), 5, 26, "training.gate.steps is 7"),
    (keys("evaluate: {recall: 1}"), 5, 1, "evaluate in version 15"),
    # versions
    (keys("training: {preference: {method: kto}}"), 5, 33, 'training.preference.method is "kto"'),
    (keys("training: {dpo: {}, preference: {}}", 1), 5, 12, "training.dpo beside training.preference"),
    (keys("training: {dpo: {method: dpo}}", 1), 5, 18, 'unknown key "method" in training.dpo'),
    # document
    (f"{HEAD} \n", 6, 1, "the document has no text"),
    (keys("x: 1").replace("smollm2", "unknown"), 4, 13, "unknown base"),
    (f"{HEAD}::prose#en::\nx", 6, 8, "a section for the adapter en"),
    (f'{HEAD}x\n::image path="a.png"::\n', 7, 1, "an ::image:: section"),
    (f'{HEAD}x\n::image path="a.png"::\n', 7, 15, 'the file "a.png" cannot be read'),
    # body
    (f"{HEAD}x\n  ```\n", 7, 3, "this code block is never closed"),
    (f"{HEAD}x\u2028::prose::\n", 6, 2, 'the character U+2028 before "::prose::"'),
    # headers
    (f"{HEAD}x\n### Q\nq\n", 7, 1, "### Q in a ::prose:: section"),
    (questions("### A\na"), 7, 1, "### A without a ### Q before it"),
    (questions("### Q\nq"), 7, 1, "### Q without a ### A after it"),
    (questions("\ntext"), 8, 1, "text before the first ### Q"),
    (f"{HEAD}x\n::preference::\n", 7, 1, "this ::preference:: section is empty"),
    (questions(" ### Q\n### A\na"), 7, 2, "### Q is empty"),
    (questions("### Q:\nq\n### A\na"), 7, 1, 'badly written header "### Q:"'),
    # fences
    (f"{HEAD}x\n:: note ::\n", 7, 1, 'badly written section fence ":: note ::"'),
    (f"{HEAD}x\n::note::\n", 7, 3, 'unknown section type "note"'),
    (f"{HEAD}x\n ::prose::\ny", 7, 1, "white space before a section fence"),
    (f"{HEAD}x\n::prose#En::\ny", 7, 9, 'adapter name "En"'),
    (f"{HEAD}x\n::prose\ny", 7, 8, "::prose without its closing ::"),
    (f"{HEAD}x\n::prose x::\ny", 7, 9, 'unexpected "x::"'),
    (f'{HEAD}x\n::prose a="b"::\ny', 7, 9, 'unknown attribute "a" of ::prose'),
    (f'{HEAD}x\n::image path="a" path="b"::\ny', 7, 18, 'attribute "path" a second time'),
    (f"{HEAD}x\n::prose:: x\ny", 7, 10, '" x" after a section fence'),
    (f"{HEAD}x\n::prose:: \ny", 7, 10, "white space after a section fence"),
    (f'{HEAD}x\n::audio path="a"::\ny', 7, 17, "::audio without transcript"),
    # markers
    (questions("<!-- dlm-auto-harvest -->"), 7, 1, 'badly written marker "<!-- dlm-auto-harvest -->"'),
    (questions(HARVEST.replace("harvest", "x")), 7, 15, 'unknown marker "x"'),
    (f"{HEAD}::preference::\n{HARVEST.replace('harvest', 'synth')}\n", 7, 15, "a synth marker in an ::preference::"),
    (questions(HARVEST.replace("source", "from")), 7, 24, 'unknown attribute "from" of a harvest marker'),
    (questions(HARVEST.replace(" -->", ' source="y" -->')), 7, 35, 'attribute "source" a second time'),
    (questions(HARVEST.replace('"x"', '""')), 7, 32, 'source is ""'),
    (questions("<!-- dlm-auto-harvest: -->"), 7, 23, "a harvest marker without source"),
]


def told(text: str, name: str = "book") -> list[DlmError]:
    def check_base(base: str) -> None:
        if base.startswith("unknown"):
            raise BaseModelError(f"unknown base {base}", do="write another")

    return read(text.encode(), f"{name}.dlm", Path("/nowhere"), check_base).errors


@pytest.mark.parametrize(("text", "line", "col", "what"), CASES, ids=[case[3][:50] for case in CASES])
def test_mistake_at_its_place(text: str, line: int, col: int, what: str) -> None:
    found = [error for error in told(text) if error.where and (error.where.line, error.where.col) == (line, col)]
    assert any(error.what.startswith(what) for error in found), [str(error) for error in told(text)]
    assert all(error.do for error in told(text))


def test_a_name_that_no_task_can_have() -> None:
    (error,) = told(f"{HEAD}x", "train")
    assert str(error).startswith('train.dlm: a document cannot be called "train": `doit train` means a task')


def noting_lines() -> Iterator[tuple[str, int, int]]:
    """Module, first and last line of each call that notes a mistake."""
    for module in MODULES:
        for node in ast.walk(ast.parse((FOLDER / f"{module}.py").read_text("utf-8"))):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                owner = ast.unparse(node.func).rpartition(".")[0]
                if name in NOTING and owner in ("", "self", "mistakes", "self._mistakes"):
                    yield module, node.lineno, node.end_lineno or node.lineno


def test_every_line_that_notes_a_mistake_has_a_case() -> None:
    lines = list(noting_lines())
    hit = set()

    def note(self: Mistakes, error: DlmError) -> None:
        frame = sys._getframe(1)
        while frame.f_back:
            module = Path(frame.f_code.co_filename).stem
            hit.update(place for place in lines if place[0] == module and place[1] <= frame.f_lineno <= place[2])
            frame = frame.f_back
        noted(self, error)

    noted = Mistakes.note
    with mock.patch.object(Mistakes, "note", note):
        for text, *_ in CASES:
            told(text)
        told(f"{HEAD}x", "train")
    assert len(lines) > 50
    assert sorted(set(lines) - hit) == []


def test_no_group_of_a_pattern_is_possessive() -> None:
    """Python before 3.11.5 goes on behind a turn of it that failed: python/cpython#106052."""
    package = Path(dlmbuild.__path__[0])
    found = re.compile(r"\)(?:[*+?]|\{\{?\d*,?\d*\}\}?)\+")
    assert [str(path) for path in package.rglob("*.py") if found.search(path.read_text("utf-8"))] == []
