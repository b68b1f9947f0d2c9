"""Every word that is not ours goes to doit, and comes back with our exit codes."""

from __future__ import annotations

import pytest

from tests.workshop import Workshop


@pytest.fixture
def here(workshop: Workshop) -> Workshop:
    """A project with one document."""
    workshop.document("tower", base="smollm2-135m")
    return workshop


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        ["list", "--all", "--status"],
        ["check:tower"],
        ["forget", "-a"],
        ["forget", "check:tower"],
        ["ignore", "train:tower"],
        ["clean"],
        ["clean", "-n", "export"],
        ["help"],
    ],
    ids=" ".join,
)
def test_commands_of_doit_work(here: Workshop, words: list[str]) -> None:
    assert here.dlm(*words, code=0).err == ""


def test_a_failed_task_is_1(here: Workshop) -> None:
    here.edit("tower", "### A", "### B")
    assert "✗ check:tower" in here.dlm("check:tower", code=1).err


@pytest.mark.parametrize("words", [["no_such_task"], ["list", "--no-such-option"]], ids=" ".join)
def test_a_wrong_command_line_is_2(here: Workshop, words: list[str]) -> None:
    told = here.dlm(*words, code=2).err
    assert told.startswith("ERROR: ") and "Traceback" not in told
