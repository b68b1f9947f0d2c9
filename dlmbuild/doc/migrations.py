"""An older document as the newest version of the format has it: as few edits as say the same."""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Iterator, Mapping

from dlmbuild.doc.block import Path, Position
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
    spans = _spans(found)
    _, start, end = spans["dlm_version",]
    edits = [Edit(start, end, str(NEWEST_VERSION)), *_preference(found, spans, path), *_escapes(found)]
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


def _spans(found: Reading) -> dict[Path, tuple[int, int, int]]:
    """Path of a key → where it begins in the text, where its value does, and where that ends."""
    assert found.head is not None
    starts = [0, *(match.end() for match in re.finditer("\n", found.body.text[: found.head.body]))]

    def offset(at: Position) -> int:
        return starts[at[0] - 1] + at[1] - 1

    return {path: (offset(mark.key), offset(mark.value), offset(mark.end)) for path, mark in found.head.marks.items()}


def _escapes(found: Reading) -> Iterator[Edit]:
    """A backslash more for each line whose first one would be left out from now on."""
    if found.head and found.head.version < ESCAPES_SINCE and has_escapes(found.body.text, found.head.body):
        body = read_sections(found.body.text, found.head.body, found.head.body_line, Mistakes(""), escapes=True)
        for at in body.escapes:
            yield Edit(at, at, "\\")


def _preference(found: Reading, spans: Mapping[Path, tuple[int, int, int]], path: str) -> Iterator[Edit]:
    """Version 1's `training.dpo` under its later name, with three of its keys in a block of their own."""
    text, old = found.body.text, ("training", "dpo")
    if old not in spans or not found.head or not found.head.values:
        return
    at = spans[old][0]
    start = text.find("dpo", at, at + 5)  # there may be a quotation mark first
    if start < 0:
        where, do = Where(path, *found.head.marks[old].key), "write dpo, and migrate it then"
        raise DocumentError("training.dpo is spelled with escapes", where=where, why="its name changes", do=do)
    yield Edit(start, start + len("dpo"), "preference")
    moved = {key[2]: spans[key] for key in spans if key[:2] == old and len(key) == 3 and key[2] in HYPERPARAMS}
    inner = ", ".join(f"{key}: {text[value:end]}" for key, (_, value, end) in moved.items())
    done = 0
    for number, (key, _, end) in enumerate(moved.values()):
        edit = _removal(text, key, end) if number else Edit(key, end, f"hyperparams: {{{inner}}}")
        yield edit._replace(start=max(edit.start, done))  # two may be neighbours
        done = edit.end
    reference = (*old, "reference")
    if reference in spans:
        _, start, end = spans[reference]
        value = found.head.values.training.preference.reference
        if text[start:end].strip("\"'") != value:
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
