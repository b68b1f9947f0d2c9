"""What the README says is true: its commands exist, its document is well written, its two commands are CI's."""

from __future__ import annotations

import re
from pathlib import Path

from dlmbuild.cli import COMMANDS
from dlmbuild.doc.document import parse_text
from dlmbuild.doc.names import VERBS

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_document_in_the_readme_is_well_written() -> None:
    (document,) = blocks("dlm")
    parsed = parse_text(document, "boathouse.dlm")
    assert [type(section).__name__ for section in parsed.sections] == ["Prose", "Instruction", "Prose"]


def test_every_command_in_the_readme_exists() -> None:
    doit = {"list", "clean", "bench", "golden", "why"}
    for words in re.findall(r"\bdlm ([a-z]+)", "\n".join(blocks("sh"))):
        assert words in {*COMMANDS, "build"}
    for words in re.findall(r"\bdoit ([a-z]+)", README):
        assert words in {*VERBS} | doit | {"decides", "is"}, words
    for verb in re.findall(r"^\| `(\w+)`(?:, `(\w+)`)? \| ", README.partition("## Your own")[0], re.MULTILINE):
        assert set(filter(None, verb)) <= {*VERBS}


def test_continuous_integration_runs_the_second_command() -> None:
    second = next(block.strip() for block in blocks("sh") if "pytest" in block)
    assert second == "pip install -e '.[test]' && pytest"
    assert second.replace("install", "install --quiet") in (REPOSITORY / ".ci" / "run").read_text()


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (REPOSITORY / target).exists(), target
