"""Documents and sections as text that reads back as the same, ids included: what the properties of reading are held to.

The program itself writes no document anew: whatever changes one edits it by span, see `dlmbuild.doc.edits`.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dlmbuild.doc import headers
from dlmbuild.doc.body import end_of_code, structure
from dlmbuild.doc.fences import read_fence
from dlmbuild.doc.markers import Marker
from dlmbuild.doc.mistakes import Mistakes
from dlmbuild.doc.sections import Body, Instruction, Media, Preference, Prose, Section, kind_of

if TYPE_CHECKING:
    from dlmbuild.doc.schema import Frontmatter


def document_text(values: Frontmatter, body: Body) -> str:
    """A document that says what was read: the keys that were written, and the content of each section as it was."""
    pieces = ["---\n", *_yaml(values.model_dump(mode="json", exclude_unset=True), ""), "---\n"]
    for number, section in enumerate(body.sections):
        start, end = body.spans[number]
        plain = number == 0 and isinstance(section, Prose) and section.adapter is None
        pieces += ["\n" if plain else _head(section), body.text[start:end], "\n"]
    return "".join(pieces)


def section_text(section: Section) -> str:
    """A section as lines of a document of version 16 or later; whatever its texts hold stays text."""
    lines = [_head(section)]
    if isinstance(section, Instruction):
        for pair in section.pairs:
            lines += [f"### Q{' !probe' * pair.probe}\n{escaped(pair.question)}\n### A\n{escaped(pair.answer)}\n\n"]
    elif isinstance(section, Preference):
        for triple in section.triples:
            texts = (escaped(text) for text in (triple.prompt, triple.chosen, triple.rejected))
            lines += [f"{header}\n{text}\n" for header, text in zip(_TRIPLE, texts, strict=True)] + ["\n"]
    else:
        lines += [escaped(section.text), "\n"]
    return "".join(lines)


_TRIPLE = ("### Prompt", "### Chosen", "### Rejected")


def escaped(text: str) -> str:
    """A text with a backslash before whatever would be more than text at the beginning of a line.

    Code blocks stay as they are; one that is never closed becomes text.
    """
    whole = "\n" + text
    places: list[int] = []
    begins, ends = [-1], [-1]  # of code blocks
    for match in structure(escapes=True).finditer(whole):
        kind = match.lastgroup or ""
        if match.start() < ends[-1] or kind == "blank":
            continue
        if kind == "code" and end_of_code(match) <= len(whole):
            begins.append(match.start())
            ends.append(end_of_code(match))
        elif kind != "fence" or read_fence(1, _line(whole, match.start() + 1), Mistakes("")):
            places.append(match.start() + 1 if kind == "plain" else match.start(kind))
    for match in nearly_headers(whole):
        if match.start() >= ends[bisect_right(begins, match.start()) - 1]:
            places.append(match.end("indent"))
    pieces, at = [], 1
    for place in sorted(places):
        pieces += [whole[at:place], "\\"]
        at = place
    return "".join([*pieces, whole[at:]])


def nearly_headers(text: str) -> Iterator[re.Match[str]]:
    """The headings that are headers in some section, or badly written ones; code blocks are not looked at."""
    for match in re.finditer(headers._HEADING, text):
        known = headers._seen(match["word"]) in (*headers._PAIRS.meant, *headers._TRIPLES.meant)
        if known and (
            match["rest"].strip() == "!probe"
            or headers.pattern(headers._NEARLY_NOTHING).fullmatch(match["rest"].strip())
        ):
            yield match


def _line(text: str, start: int) -> str:
    end = text.find("\n", start)
    return text[start : end if end >= 0 else len(text)]


def _head(section: Section) -> str:
    """The fence of a section, and its markers."""
    adapter = f"#{section.adapter}" if section.adapter is not None else ""
    attributes: dict[str, str] = {}
    markers: tuple[Marker, ...] = ()
    if isinstance(section, Media):
        given = {"path": section.path, "alt": section.alt, "transcript": section.transcript}
        attributes = {key: value for key, value in given.items() if value}
    elif isinstance(section, Instruction | Preference):
        markers = section.markers
    lines = [f"::{kind_of(section)}{adapter}{_written(attributes)}::\n"]
    return "".join(lines + [f"<!-- dlm-auto-{m.kind}:{_written(m.attributes)} -->\n" for m in markers])


def _written(attributes: Mapping[str, str]) -> str:
    for value in attributes.values():
        if '"' in value or "\n" in value:
            raise ValueError(f"an attribute cannot hold {value!r}")
    return "".join(f' {key}="{value}"' for key, value in attributes.items())


def _yaml(block: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, value in block.items():
        if isinstance(value, dict) and value:
            yield f"{indent}{key}:\n"
            yield from _yaml(value, indent + "  ")
        else:
            yield f"{indent}{key}: {_flow(value)}\n"


def _flow(value: Any) -> str:
    """JSON, which YAML includes but for characters that it wants escaped."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08X}" for char in text)
