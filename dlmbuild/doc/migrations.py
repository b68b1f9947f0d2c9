"""An older document as the newest version of the format has it: as few edits as say the same."""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Iterator, Mapping

from dlmbuild.doc.block import Mark, Path, Position
from dlmbuild.doc.body import has_escapes, read_sections
from dlmbuild.doc.document import Reading, as_data, document_of, prefers, read, section_as_data
from dlmbuild.doc.edits import Edit, edited
from dlmbuild.doc.mistakes import Mistakes
from dlmbuild.doc.sections import Section
from dlmbuild.doc.versions import ESCAPES_SINCE, HYPERPARAMS, NEWEST_VERSION
from dlmbuild.errors import DocumentError, InvalidDocument, Where

_BEHIND = re.compile(r"[ \t]*(,[ \t]*)?")
"""What goes with an entry of a block that is taken out."""


def migration(data: bytes, path: str) -> list[Edit]:
    """The edits that bring the document `data` to the newest version; none for one that has it.

    They keep what it says and the id of each section, which is checked. Raises InvalidDocument for its mistakes.
    """
    found = read(data, path)
    if found.errors or found.head is None:
        raise InvalidDocument(found.errors)
    if found.head.version == NEWEST_VERSION:
        return []
    edits = [*_version(found), *_preference(found, path), *_escapes(found)]
    after = read(edited(data, edits), path)
    if after.errors or not _say_the_same(found, after, path):
        raise DocumentError(
            f"this document cannot be brought to version {NEWEST_VERSION} by edits of single places",
            where=Where(path),
            why=str(after.errors[0].what if after.errors else "it would say something else"),
            do="write its training.dpo as training.preference by hand, one key on each line",
        )
    return edits


def _say_the_same(found: Reading, after: Reading, path: str) -> bool:
    """Whether two readings without mistakes have the same data and ids of sections; lines may have moved."""
    one, other = document_of(found, path), document_of(after, path)
    if len(one.sections) != len(other.sections):
        return False
    # Sections are compared one by one: the data of a million of them takes more memory than all else.
    heads = (as_data(dataclasses.replace(document, sections=document.sections[:0])) for document in (one, other))
    return (
        operator.eq(*heads)
        and prefers(one) == prefers(other)
        and all(map(_same_section, one.sections, other.sections))
        and all(one.body.content(at) == other.body.content(at) for at in range(len(one.sections)))
    )


def _same_section(one: Section, other: Section) -> bool:
    return one == other or section_as_data(one) == section_as_data(other)


class _Places:
    """Offsets of the marks of a frontmatter."""

    def __init__(self, found: Reading) -> None:
        self.text = found.body.text
        self.marks: Mapping[Path, Mark] = found.head.marks if found.head else {}
        head = self.text[: found.head.body] if found.head else ""
        self._lines = [0, *(match.end() for match in re.finditer("\n", head))]

    def offset(self, at: Position) -> int:
        line, col = at
        return self._lines[line - 1] + col - 1

    def value(self, path: Path) -> tuple[int, int]:
        return self.offset(self.marks[path].value), self.offset(self.marks[path].end)

    def entry(self, path: Path) -> tuple[int, int]:
        """From the beginning of the key to the end of the value."""
        return self.offset(self.marks[path].key), self.offset(self.marks[path].end)


def _version(found: Reading) -> Iterator[Edit]:
    yield Edit(*_Places(found).value(("dlm_version",)), str(NEWEST_VERSION))


def _escapes(found: Reading) -> Iterator[Edit]:
    """A backslash more for each line whose first one would be left out from now on."""
    if found.head and found.head.version < ESCAPES_SINCE and has_escapes(found.body.text, found.head.body):
        body = read_sections(found.body.text, found.head.body, found.head.body_line, Mistakes(""), escapes=True)
        for at in body.escapes:
            yield Edit(at, at, "\\")


def _preference(found: Reading, path: str) -> Iterator[Edit]:
    """Version 1's `training.dpo` under its later name, with three of its keys in a block of their own."""
    places, old = _Places(found), ("training", "dpo")
    if old not in places.marks or not found.head or found.head.version != 1:
        return
    at = places.offset(places.marks[old].key)
    start = places.text.find("dpo", at, at + 5)  # there may be a quotation mark first
    if start < 0:
        where, do = Where(path, *places.marks[old].key), "write dpo, and migrate it then"
        raise DocumentError("training.dpo is spelled with escapes", where=where, why="its name changes", do=do)
    yield Edit(start, start + len("dpo"), "preference")
    moved = [key for key in places.marks if key[:2] == old and len(key) == 3 and key[2] in HYPERPARAMS]
    if moved:
        inner = ", ".join(f"{key[2]}: {places.text[slice(*places.value(key))]}" for key in moved)
        yield Edit(*places.entry(moved[0]), f"hyperparams: {{{inner}}}")
    done = 0
    for entry in moved[1:]:
        edit = _removal(places.text, *places.entry(entry))
        yield edit._replace(start=max(edit.start, done))  # two may be neighbours
        done = edit.end
    reference = (*old, "reference")
    if reference in places.marks and found.head.values:
        start, end = places.value(reference)
        value = found.head.values.training.preference.reference
        if places.text[start:end].strip("\"'") != value:
            yield Edit(start, end, value)


def _removal(text: str, start: int, end: int) -> Edit:
    """The edit that takes out an entry of a block: with its line where nothing else is there, or with a comma."""
    first = text.rfind("\n", 0, start) + 1
    behind = _BEHIND.match(text, end)
    assert behind  # of nothing, where nothing is there
    before, stop = text[first:start].rstrip(" \t"), behind.end()
    if not before:
        return Edit(first, stop + 1, "") if text[stop] == "\n" else Edit(start, stop, "")
    if before.endswith(",") and "," not in behind[0]:  # of two commas one goes
        start = first + len(before) - 1
    elif text[stop] == "\n":
        start = first + len(before)
    return Edit(start, stop - (text[stop] == "#" and text[stop - 1] in " \t"), "")
