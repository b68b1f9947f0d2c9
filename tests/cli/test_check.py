"""`dlm check`: everything that is wrong with a document at once, the base that it names included."""

from __future__ import annotations

import pytest

from tests.workshop import Workshop


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ("smollm2-135", "4:13: unknown base model 'smollm2-135'"),
        ("hf:org/name", "4:13: 'hf:org/name' has no revision"),
        ("ftp:somewhere", "4:13: unknown kind of base model 'ftp:'"),
        ("  'file:'", "4:15: 'file:' names no file"),
    ],
)
@pytest.mark.parametrize("more", ["", "training: {seed: -1}\n"])
@pytest.mark.parametrize("body", ["Prose.\n", "::instruction::\n### A\nB.\n"])
def test_a_bad_base_has_its_position_whatever_else_is_wrong(
    workshop: Workshop, base: str, told: str, more: str, body: str
) -> None:
    workshop.document("book", base=base, more=more, body=body)
    for err in (workshop.dlm("check", code=1).err, workshop.doit("check", code=1).err):
        assert f"book.dlm:{told}" in err
        assert ("book.dlm:5:18: " in err) == bool(more)
        assert (f"book.dlm:{7 + bool(more)}:1: " in err) == body.startswith("::")


def test_a_base_that_cannot_be_read_is_told_once(workshop: Workshop) -> None:
    workshop.document("book", base="3")
    err = workshop.dlm("check", code=1).err
    assert err.count("book.dlm:") == 1 and "base_model is 3" in err
