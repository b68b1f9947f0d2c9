"""What docs/sources.md shows is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dlmbuild.doc.ignore import NEVER, excluded_by_default
from dlmbuild.doc.schema import Source
from dlmbuild.doc.source_file import MAX_BYTES
from tests.workshop import Workshop

TEXT = (Path(__file__).parent.parent / "docs" / "sources.md").read_text("utf-8")


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    """The project that the page shows."""
    for _, name, content in re.findall(r"^```(\w+) (\S+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL):
        write(workshop.folder / name, content)
    (listing,) = re.findall(r"^```text\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    for line in listing.splitlines():
        name, content = line.split(maxsplit=1)
        write(workshop.folder / name, content + "\n")
    return workshop


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def consoles() -> list[tuple[str, str]]:
    return re.findall(r"^```console\n\$ (.*?)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def test_check_says_what_the_page_shows(shop: Workshop) -> None:
    command, shown = consoles()[0]
    assert command == "dlm check"
    assert shop.dlm("check").out == shown


def test_why_says_what_the_page_shows(shop: Workshop) -> None:
    command, shown = consoles()[1]
    assert command == 'echo "The wind turned." >> log/1932.md; doit why dataset'
    shop.doit("check")
    with (shop.folder / "log/1932.md").open("a") as file:
        file.write("The wind turned.\n")
    assert shop.doit("why", "check", code=1).out.startswith(shown)


def test_a_question_mark_is_a_byte_as_the_page_says(shop: Workshop) -> None:
    assert "As in git, `?` and `[!a]` stand for one byte, of which a letter such as é has two" in TEXT
    write(shop.folder / "log/é.md", "Summer.\n")
    config = shop.folder / "log/.dlm/ignore"
    for pattern, left_out in (("?.md", 0), ("[!a].md", 0), ("??.md", 1), ("*é.md", 1), ("é*", 1)):
        write(config, f"wages.*\n{pattern}\n")
        assert shop.dlm("check").out.startswith(f"lighthouse.dlm: log: {4 - left_out} files"), pattern
    write(config, "[é].md\n")
    assert "log/.dlm/ignore:1:1: the pattern" in shop.dlm("check", code=1).err


def test_every_key_is_on_the_page() -> None:
    keys = set(re.findall(r"^\| `(\w+)` \|", TEXT, re.MULTILINE))
    assert keys == {*Source.model_fields, "sources_policy"}
    assert f"{MAX_BYTES >> 20} MB" in TEXT


def test_what_the_page_says_is_left_out_is() -> None:
    section = TEXT.partition("## Left out by default")[2].partition("vendored")[0]
    named = [name.replace("*", "x") for name in re.findall(r"`([^`]+)`", section)]
    assert len(named) > 5
    for name in named:
        assert excluded_by_default(name, folder=False) or excluded_by_default(name, folder=True), name
    assert all(f"`{name}`" in TEXT for name in NEVER)


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (Path(__file__).parent.parent / "docs" / target).exists(), target
