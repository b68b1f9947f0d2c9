from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from dlmbuild import errors
from dlmbuild.errors import DlmError, DocumentError, HardwareError, InvalidDocument, UsageError, Where

ROOT = Path(__file__).parents[1]
TREE: list[type[DlmError]] = [DlmError, *DlmError.__subclasses__()]
OURS = [kind for kind in TREE if kind.__module__ == "dlmbuild.errors"]
NAMES = [kind.__name__ for kind in OURS]


def named_in_errors() -> set[str]:
    tree = ast.parse((ROOT / "dlmbuild" / "errors.py").read_text())
    return {node.name for node in tree.body if isinstance(node, ast.ClassDef)} - {"Where"}


@cache
def raised() -> set[str]:
    """Names of the errors that the package or the rules raise, make, or hand on as the kind to raise."""
    found = set()
    for path in [*ROOT.glob("dlmbuild/**/*.py"), *ROOT.glob("rules/*.py")]:
        if path.name == "errors.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                given = (node.func, *node.args, *(keyword.value for keyword in node.keywords))
                found |= {part.id for part in given if isinstance(part, ast.Name)}
            elif isinstance(node, ast.ClassDef):
                found |= {base.id for base in node.bases if isinstance(base, ast.Name)}
    return found


def test_the_tree_in_the_docstring_lists_exactly_the_classes() -> None:
    drawn = re.findall(r"^ {4}(?:[├└]── )?(\w+) {2,}\S", errors.__doc__ or "", re.MULTILINE)
    assert drawn == NAMES
    assert set(drawn) == named_in_errors()


@pytest.mark.parametrize("name", [name for name in NAMES if name != "DlmError"])
def test_every_class_is_raised_somewhere(name: str) -> None:
    assert name in raised()


def test_a_plain_dlm_error_is_raised_nowhere() -> None:
    for path in [*ROOT.glob("dlmbuild/**/*.py"), *ROOT.glob("rules/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                assert ast.unparse(node.exc.func) != "DlmError", f"{path}:{node.lineno}"


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (DlmError("what"), "what"),
        (DlmError("what", why="why"), "what: why"),
        (DlmError("what", do="do"), "what\n  → do"),
        (DlmError("what", where=Where("a.dlm", 3, 4), why="why", do="do"), "a.dlm:3:4: what: why\n  → do"),
        (DlmError("what", where=Where("a.dlm", 3)), "a.dlm:3: what"),
        (DlmError("what", where=Where("a.dlm")), "a.dlm: what"),
    ],
)
def test_one_sentence_of_what_where_why_and_what_to_do(error: DlmError, text: str) -> None:
    assert str(error) == text


@pytest.mark.parametrize("kind", [kind for kind in OURS if kind is not InvalidDocument])
@pytest.mark.parametrize("where", [None, Where("a.dlm"), Where("a.dlm", 3, 4)])
def test_an_error_crosses_as_data(kind: type[DlmError], where: Where | None) -> None:
    error = kind("wäs", where=where, why="why", do="do")
    back = DlmError.from_data(error.as_data())
    assert type(back) is kind and str(back) == str(error) and back.where == where
    assert back.exit_code == (2 if kind is UsageError else 1)


def test_a_class_that_is_unknown_here_comes_back_plain() -> None:
    back = DlmError.from_data({"class": "ErrorOfTomorrow", "what": "x", "where": None, "why": "", "do": ""})
    assert type(back) is DlmError and str(back) == "x"


def test_an_invalid_document_tells_all_its_mistakes_in_order() -> None:
    mistakes = [DocumentError(str(line), where=Where("a.dlm", line, 1)) for line in (12, 3, 7)]
    error = InvalidDocument([*mistakes, DocumentError("file")])
    assert str(error) == "file\na.dlm:3:1: 3\na.dlm:7:1: 7\na.dlm:12:1: 12"
    assert (error.what, error.where) == ("file", None)
    with pytest.raises(AssertionError):
        InvalidDocument([])


def test_an_invalid_document_crosses_with_its_first_mistake() -> None:
    error = InvalidDocument([DocumentError("x", where=Where("a.dlm", 3, 1))])
    back = DlmError.from_data(error.as_data())
    assert type(back) is DocumentError and back.where == Where("a.dlm", 3, 1)


def test_a_hardware_error_names_the_setting() -> None:
    assert HardwareError("x", field="precision").field == "precision"
    assert HardwareError("x").field == ""
