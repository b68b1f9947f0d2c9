"""The sections of a body: prose, questions with answers, preferences, media."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from dlmbuild.doc.markers import Marker
from dlmbuild.io.digest import sha256_bytes


class Prose(NamedTuple):
    """Running text. `line` is that of its fence, or of its first text where it has none."""

    text: str
    adapter: str | None
    line: int


class Pair(NamedTuple):
    """A question and its answer; `probe` asks for it to be kept for evaluation. Lines are those of the headers."""

    question: str
    answer: str
    probe: bool
    line: int
    answer_line: int


class Instruction(NamedTuple):
    """Questions with their answers."""

    pairs: tuple[Pair, ...]
    adapter: str | None
    line: int
    markers: tuple[Marker, ...] = ()


class Triple(NamedTuple):
    """A prompt with a better and a worse answer. Lines are those of the headers."""

    prompt: str
    chosen: str
    rejected: str
    line: int
    chosen_line: int
    rejected_line: int


class Preference(NamedTuple):
    """Prompts with a better and a worse answer each."""

    triples: tuple[Triple, ...]
    adapter: str | None
    line: int
    markers: tuple[Marker, ...] = ()


class Media(NamedTuple):
    """An image or a recording, with the text below its fence."""

    kind: str
    path: str
    alt: str
    transcript: str
    text: str
    adapter: str | None
    line: int


Section = Prose | Instruction | Preference | Media


def kind_of(section: Section) -> str:
    """The type of a section as its fence has it."""
    return section.kind if isinstance(section, Media) else type(section).__name__.lower()


class Body(NamedTuple):
    """The sections of a document, and what stands in them."""

    text: str
    """Of the whole document."""
    sections: tuple[Section, ...]
    spans: tuple[tuple[int, int], ...]
    """Offsets of the content of each section: from behind the fence and its markers to the next fence."""
    escapes: Sequence[int]
    """Offsets of the backslashes that are no part of any content."""

    def content(self, number: int) -> str:
        """What stands in a section, counted from 0, its white space as written."""
        start, end = self.spans[number]
        pieces = []
        for at in self.escapes[bisect_left(self.escapes, start) : bisect_left(self.escapes, end)]:
            pieces.append(self.text[start:at])
            start = at + 1
        return "".join([*pieces, self.text[start:end]])

    def section_id(self, number: int, blob_sha256: str = "") -> str:
        """What names a section: 16 hex digits over its type and content, as the public format has it.

        White space counts; markers and the name of an adapter do not. Two sections that say the same have one id. That
        of an image or a recording is made from its path, and from the digest of its file where that was read.
        """
        section = self.sections[number]
        if isinstance(section, Media):
            parts = [section.kind, section.path, *filter(None, [blob_sha256])]
        else:
            parts = [kind_of(section), self.content(number).removeprefix("\ufeff")]
        return sha256_bytes("\n".join(parts).encode())[:16]
