"""Standard streams as shells hand them over: closed, on a full disk, or with a reader that has gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from dlmbuild.cli.printing import Printing
from tests.workshop import Ran, Workshop


@pytest.fixture
def here(workshop: Workshop) -> Workshop:
    """A project with a checked document."""
    workshop.document("tower", base="smollm2-135m")
    workshop.doit("check")
    return workshop


def shell(here: Workshop, line: str) -> Ran:
    ran = here.shell(line)
    assert not any(word in ran.err for word in ("Traceback", "defect", "Exception ignored"))
    return ran


@pytest.mark.parametrize(
    "words",
    [
        *("doit check", "dlm check", "dlm check:tower", "dlm build check", "dlm list", "dlm show", "dlm --help"),
        *("doit list", "doit info check:tower", "doit dumpdb"),
    ],
)
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_reason_to_fail(here: Workshop, words: str, closed: str) -> None:
    assert shell(here, f"{words} {closed}").code == 0


def test_what_is_built_gets_no_output_that_was_to_go_to_a_closed_stream(here: Workshop) -> None:
    here.edit("tower", "grey", "red")
    assert shell(here, "doit check <&- >&- 2>&-").code == 0
    assert here.doit("check").steps == []
    assert "✓" not in (here.folder / ".doit.db").read_bytes().decode("utf-8", "replace")


def test_a_closed_standard_input_holds_no_question(here: Workshop) -> None:
    ran = shell(here, "dlm prompt tower <&-")
    assert ran.code == 2 and "there is no question" in ran.err


@pytest.mark.parametrize(
    "words",
    [
        *("dlm show", "dlm gc --verbose", "dlm list --all", "dlm check", "dlm --help", "dlm why"),
        *("dlm show nothere 2>&1", "doit clean"),
        *("doit list --all", "doit why", "doit info check:tower", "doit dumpdb"),
    ],
)
def test_a_reader_that_goes_ends_a_command_quietly(here: Workshop, words: str) -> None:
    ran = shell(here, f"(sleep 0.2; {words}; echo $? >code) | true")
    assert (ran.out, ran.err) == ("", "")
    assert (here.folder / "code").read_text() == "141\n"


@pytest.mark.parametrize("words", ["doit check", "dlm build check"])
def test_a_build_goes_on_when_nobody_reads_any_more(here: Workshop, words: str) -> None:
    here.edit("tower", "grey", "red")
    ran = shell(here, f"(sleep 0.2; {words}; echo $? >code) | true")
    assert ran.err == ""
    assert (here.folder / "code").read_text() == "0\n"
    assert here.doit("check").steps == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
@pytest.mark.parametrize(
    "words",
    [
        *("dlm show", "dlm list", "dlm --help"),
        *("doit list --all", "doit why check", "doit info check:tower", "doit dumpdb", "doit clean"),
    ],
)
def test_output_that_cannot_be_written_is_told(here: Workshop, words: str) -> None:
    ran = shell(here, f"{words} >/dev/full")
    assert ran.code == 1 and ran.err == "the output cannot be written: No space left on device\n"


class Failing:
    """In the place of doit's command."""

    def parse_execute(self, words: list[str]) -> int:
        raise PermissionError(13, "Permission denied", *words)


class Command(Printing, Failing):
    """A command of ours."""


def test_an_input_that_cannot_be_read_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DLM_VERBOSE", raising=False)
    assert Command().parse_execute(["base/model.safetensors"]) == 1
    assert capsys.readouterr().err == "base/model.safetensors: Permission denied\n"
    monkeypatch.setenv("DLM_VERBOSE", "1")
    with pytest.raises(PermissionError):
        Command().parse_execute(["base/model.safetensors"])
