"""A `.dlm` file as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlmbuild.doc import block
from dlmbuild.doc.frontmatter import read_head
from dlmbuild.doc.mistakes import Mistakes
from dlmbuild.doc.names import check_name
from dlmbuild.doc.sections import Instruction, Media, Preference, Prose, Section, read_sections
from dlmbuild.errors import DocumentError, InvalidDocument, Where
from dlmbuild.io.text import decode_text, read_bytes

if TYPE_CHECKING:
    from dlmbuild.doc.schema import Frontmatter


@dataclass(frozen=True, slots=True)
class Document:
    """A document without mistakes. `name` is the file's stem, `path` how errors name the file."""

    path: str
    name: str
    frontmatter: Frontmatter
    sections: tuple[Section, ...]
    marks: Mapping[block.Path, block.Mark] = field(repr=False, compare=False)

    def where(self, *key: str | int) -> Where:
        """Position of a value, `where("training", "seed")`; of the file where the frontmatter does not give it."""
        return Where(self.path, *self.marks[key].value) if key in self.marks else Where(self.path)


def parse(path: Path) -> Document:
    """Read a document. Raises InvalidDocument with all of its mistakes."""
    try:
        data = read_bytes(path)
    except DocumentError as error:
        raise InvalidDocument([error]) from None
    return parse_bytes(data, str(path))


def parse_text(text: str, path: str) -> Document:
    """Read a document's text as if it were the content of `path`. Raises InvalidDocument."""
    return parse_bytes(text.encode("utf-8", "surrogatepass"), path)


def parse_bytes(data: bytes, path: str) -> Document:
    """Read a document's bytes as if they were the content of `path`. Raises InvalidDocument."""
    try:
        text = decode_text(data, path)
    except DocumentError as error:
        raise InvalidDocument([error]) from None
    mistakes = Mistakes(path)
    name = Path(path).stem
    check_name(name, mistakes)
    head = read_head(text, mistakes)
    before = len(mistakes)
    sections = read_sections(text[head.body :].split("\n"), head.body_line, mistakes)
    for section in sections:
        _refuse_unbuilt(section, mistakes)
    if not sections and len(mistakes) == before:
        why, do = "there is nothing to learn from it", "write text below the frontmatter"
        mistakes.add(head.body_line, 1, "the document has no text", why=why, do=do)
    if len(mistakes) or head.values is None:
        mistakes.stop()
    return Document(path, name, head.values, sections, head.marks)


def as_data(document: Document) -> dict[str, Any]:
    """The document as JSON data: what it says, without how or where it is written.

    Blank lines between sections, comments, the order of keys and defaults that are written out leave no trace;
    `dlm_version` only says how to read the file.
    """
    return {
        **document.frontmatter.model_dump(mode="json", exclude={"dlm_version"}),
        "sections": [_section_as_data(section) for section in document.sections],
    }


def _refuse_unbuilt(section: Section, mistakes: Mistakes) -> None:
    kind = _kind(section)
    if section.adapter is not None:
        col = len(f"::{kind}#")
        why, do = "this version does not build named adapters yet", f"delete #{section.adapter}"
        mistakes.add(section.line, col, f"a section for the adapter {section.adapter}", why=why, do=do)
    if isinstance(section, Media):
        why, do = "no base that this version builds on reads it", "describe it in a ::prose:: section"
        mistakes.add(section.line, 1, f"an ::{kind}:: section", why=why, do=do)


def _kind(section: Section) -> str:
    return section.kind if isinstance(section, Media) else type(section).__name__.lower()


def _section_as_data(section: Section) -> dict[str, Any]:
    data: dict[str, Any] = {"type": _kind(section)}
    match section:
        case Prose():
            data["text"] = section.text
        case Instruction():
            data["pairs"] = [
                {"question": pair.question, "answer": pair.answer, **({"probe": True} if pair.probe else {})}
                for pair in section.pairs
            ]
        case Preference():
            data["triples"] = [
                {"prompt": triple.prompt, "chosen": triple.chosen, "rejected": triple.rejected}
                for triple in section.triples
            ]
        case Media():
            given = {"path": section.path, "alt": section.alt, "transcript": section.transcript, "text": section.text}
            data |= {key: value for key, value in given.items() if value}
    if section.adapter is not None:
        data["adapter"] = section.adapter
    return data
