"""A `.dlm` file as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from dlmbuild.doc import block
from dlmbuild.doc.body import read_sections
from dlmbuild.doc.frontmatter import Head, read_head
from dlmbuild.doc.mistakes import Mistakes, nearest, shown
from dlmbuild.doc.names import check_name
from dlmbuild.doc.routing import trains
from dlmbuild.doc.sections import Body, Instruction, Media, Preference, Prose, Section, kind_of
from dlmbuild.doc.versions import ESCAPES_SINCE
from dlmbuild.errors import DlmError, DocumentError, InvalidDocument, Where
from dlmbuild.io.digest import sha256_file
from dlmbuild.io.text import decode_text, read_bytes

if TYPE_CHECKING:
    from dlmbuild.doc.schema import Frontmatter


_T = TypeVar("_T")

NOTHING = Body("", (), (), ())
CheckBase = Callable[[str], object]
"""Raises a DlmError where what `base_model` says names no base; which ones there are is not known here."""


@dataclass(frozen=True, slots=True)
class Document:
    """A document without mistakes. `name` is the file's stem, `path` how errors name the file."""

    path: str
    name: str
    frontmatter: Frontmatter
    sections: tuple[Section, ...]
    marks: Mapping[block.Path, block.Mark] = field(repr=False, compare=False)
    body: Body = field(repr=False, compare=False)

    def where(self, *key: str | int) -> Where:
        """Position of a value, `where("training", "seed")`; of the file where the frontmatter does not give it."""
        return Where(self.path, *self.marks[key].value) if key in self.marks else Where(self.path)


class Reading(NamedTuple):
    """What was found in a document that may have mistakes: as much as could be read."""

    errors: list[DlmError]
    """All mistakes, in the order of their lines."""
    head: Head | None
    body: Body

    def sections_as_data(self, folder: Path) -> list[dict[str, Any]]:
        """An outline as JSON data: the id, type and line of each section. `folder` is the document's."""
        outline = []
        for number, section in enumerate(self.body.sections):
            data: dict[str, Any] = {"type": kind_of(section), "line": section.line}
            if section.adapter is not None:
                data["adapter"] = section.adapter
            if isinstance(section, Instruction | Preference) and section.markers:
                data["markers"] = [{"kind": marker.kind, **marker.attributes} for marker in section.markers]
            if isinstance(section, Media):
                with suppress(DocumentError):  # which is among the mistakes
                    data["sha256"] = _blob(section.path, folder, sha256_file)
            outline.append({"id": self.body.section_id(number, data.get("sha256", "")), **data})
        return outline


def parse(path: Path, check_base: CheckBase | None = None) -> Document:
    """Read a document. Raises InvalidDocument with all of its mistakes, that of `check_base` among them."""
    return document_of(examine(path, check_base), str(path))


def parse_text(text: str, path: str) -> Document:
    """Read a document's text as if it were the content of `path`. Raises InvalidDocument."""
    return parse_bytes(text.encode("utf-8", "surrogatepass"), path)


def parse_bytes(data: bytes, path: str, check_base: CheckBase | None = None) -> Document:
    """Read a document's bytes as if they were the content of `path`. Raises InvalidDocument."""
    return document_of(read(data, path, check_base=check_base), path)


def examine(path: Path, check_base: CheckBase | None = None) -> Reading:
    """Read a file for all that is in it, its mistakes and that of `check_base` included."""
    try:
        data = read_bytes(path)
    except DocumentError as error:
        return Reading([error], None, NOTHING)
    return read(data, str(path), path.parent, check_base)


def document_of(found: Reading, path: str) -> Document:
    """The document in what was read. Raises InvalidDocument if there are mistakes."""
    if found.errors or found.head is None or found.head.values is None:
        raise InvalidDocument(found.errors)
    return Document(path, Path(path).stem, found.head.values, found.body.sections, found.head.marks, found.body)


def read(data: bytes, path: str, folder: Path | None = None, check_base: CheckBase | None = None) -> Reading:
    """Read a document's bytes for all that is in them; files that it names are looked for below `folder`, if given."""
    head, body = None, NOTHING
    mistakes = Mistakes(path)
    check_name(Path(path).stem, mistakes)
    try:
        text = decode_text(data, path)
        body = NOTHING._replace(text=text)
        head = read_head(text, mistakes)
        if check_base and head.base:
            _check_base(check_base, head, mistakes)
        before = len(mistakes)
        escapes = head.version >= ESCAPES_SINCE
        body = read_sections(text, head.body, head.body_line, mistakes, escapes=escapes)
        named = list(head.values.training.adapters or ()) if head.values else None
        for number, section in enumerate(body.sections):
            _refuse_unbuilt(number, section, body, folder, mistakes)
            if section.adapter is not None and named is not None:
                _refuse_unnamed(section, named, mistakes)
        sources = head.values.training.sources if head.values else None
        if named and not sources and len(mistakes) == before:
            _refuse_untrained(body.sections, named, head, mistakes)
        if not body.sections and not sources and len(mistakes) == before:
            why, do = "there is nothing to learn from it", "write text below the frontmatter"
            mistakes.add(head.body_line, 1, "the document has no text", why=why, do=do)
    except InvalidDocument as error:  # reading could not go on
        return Reading(error.errors, head, body)
    except DocumentError as error:
        return Reading([error], head, body)
    return Reading(InvalidDocument(list(mistakes)).errors if len(mistakes) else [], head, body)


def _check_base(check: CheckBase, head: Head, mistakes: Mistakes) -> None:
    try:
        check(head.base)
    except DlmError as error:
        where = Where(mistakes.path, *head.marks["base_model",].value)
        mistakes.note(type(error)(error.what, where=where, why=error.why, do=error.do))


def as_data(document: Document) -> dict[str, Any]:
    """The document as JSON data: what it says, without how or where it is written.

    Blank lines between sections, comments, the order of keys and defaults that are written out leave no trace;
    `dlm_version` only says how to read the file.
    """
    from dlmbuild.doc.schema import UNBUILT_BLOCKS

    # What sources come to is not known here, see sources.Found; how they are named decides nothing.
    silent = {"sources", "sources_policy"}
    silent |= {name.partition(".")[2] for name in UNBUILT_BLOCKS}  # all of these are under training
    data = document.frontmatter.model_dump(mode="json", exclude={"dlm_version": True, "training": silent})
    preference = data["training"]["preference"]
    data["training"]["preference"] = {**preference, "enabled": True} if prefers(document) else {"enabled": False}
    for name in ("adapters", "incremental", "replay"):
        if not data["training"][name]:
            del data["training"][name]
    if not data["training"]["gate"]["enabled"]:
        del data["training"]["gate"]
    if not data["export"]["mixes"]:
        del data["export"]["mixes"]
    if data["export"]["imatrix"] == "auto":
        del data["export"]["imatrix"]
    data["evaluate"] = {name: wanted for name, wanted in data["evaluate"].items() if wanted is not None}
    if not data["evaluate"]:
        del data["evaluate"]
    return {
        **data,
        "sections": [section_as_data(section) for section in document.sections],
    }


def prefers(document: Document) -> bool:
    """Whether the document's adapter is trained on preferences: it has some, and they are not switched off."""
    found = any(isinstance(section, Preference) and section.triples for section in document.sections)
    return found and document.frontmatter.training.preference.enabled is not False


def _refuse_unbuilt(number: int, section: Section, body: Body, folder: Path | None, mistakes: Mistakes) -> None:
    if isinstance(section, Media):
        why, do = "no base that this version builds on reads it", "describe it in a ::prose:: section"
        mistakes.add(section.line, 1, f"an ::{section.kind}:: section", why=why, do=do)
        try:
            if folder and section.path:  # else the fence itself is wrong, which is told
                _blob(section.path, folder, _opened)
        except DocumentError as error:
            below = body.spans[number][0]
            fence = body.text.rfind("\n", 0, below - 1) + 1
            col = max(body.text.find('path="', fence, below) - fence, 0) + 7
            mistakes.add(section.line, col, error.what, why=error.why, do=error.do)


def _opened(file: Path) -> None:
    with file.open("rb"):
        pass


def _blob(path: str, folder: Path, ask: Callable[[Path], _T]) -> _T:
    """What `ask` says of the file of an image or a recording; `path` as the document has it. Raises DocumentError."""
    what, do = f"the file {shown(path)} cannot be read", "mend the path, which begins at the document's folder"
    file = folder / path
    try:
        if not file.is_file():
            raise DocumentError(what, why="it is no file" if file.exists() else "there is none", do=do)
        return ask(file)
    except OSError as error:
        raise DocumentError(what, why=error.strerror or str(error), do=do) from None


def _refuse_unnamed(section: Section, named: Sequence[str], mistakes: Mistakes) -> None:
    """Note a section of an adapter that the frontmatter does not name."""
    name = str(section.adapter)
    if name in named:
        return
    why = f"training.adapters names {', '.join(named)}" if named else "training.adapters names none"
    near = nearest(name, named)
    do = f'did you mean "{near}"?' if near else f"write `adapters: {{{name}: {{}}}}` under training"
    do = do if near or not named else f"write {name} under training.adapters"
    col = len(f"::{kind_of(section)}#")
    mistakes.add(section.line, col, f"a section for the adapter {name}", why=why, do=do)


def _refuse_untrained(sections: Sequence[Section], named: Sequence[str], head: Head, mistakes: Mistakes) -> None:
    """Note each named adapter that no section trains."""
    trained = {name for section in sections for name in trains(kind_of(section), section.adapter, named)}
    for name in named:
        if name not in trained:
            at = head.marks["training", "adapters", name].key
            why = "no section trains it: those without a name are prose for all, or questions for the first"
            do = f"write a section ::instruction#{name}::, or delete the adapter"
            mistakes.add(*at, f"training.adapters.{name} learns nothing", why=why, do=do)


def section_as_data(section: Section) -> dict[str, Any]:
    """A section as JSON data: what it says, as in `as_data`."""
    data: dict[str, Any] = {"type": kind_of(section)}
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
