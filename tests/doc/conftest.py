"""A document that is right, and the mistakes of one that is not."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dlmbuild.doc.document import Document, parse_text
from dlmbuild.errors import InvalidDocument

REQUIRED = "dlm_id: 01HZX3Q5J8K9M2N4P6R8T0V2W4\ndlm_version: 15\nbase_model: smollm2-135m\n"

Found = list[tuple[int, int, str]]


@pytest.fixture
def head() -> str:
    """Five lines: the body of a document begins on line 6, further keys at its line 5."""
    return f"---\n{REQUIRED}---\n"


@pytest.fixture
def with_keys() -> Callable[[str], str]:
    """A document with further keys, from line 5 on."""
    return lambda keys: f"---\n{REQUIRED}{keys}\n---\ntext\n"


@pytest.fixture
def with_body(head: str) -> Callable[[str], Document]:
    """A document with this body, from line 6 on."""
    return lambda body: parse_text(head + body, "handbook.dlm")


@pytest.fixture
def found() -> Callable[[str], Found]:
    """(line, col, what) of each mistake of a document."""

    def errors(text: str) -> Found:
        with pytest.raises(InvalidDocument) as caught:
            parse_text(text, "handbook.dlm")
        for error in caught.value.errors:
            assert error.where is not None and error.where.path == "handbook.dlm"
        return [(e.where.line, e.where.col, e.what) for e in caught.value.errors if e.where]

    return errors
