"""The plain part of YAML 1.2, with the position of every key and value.

Mappings, lists and scalars of the core schema (https://yaml.org/spec/1.2.2, §10.3.2). Anchors, aliases and tags are
refused: a document says what it says where it says it. ruamel.yaml scans and parses; scalars are read here, so that
`2e-4` is a number while `12:30`, `yes` and a date are text.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, NamedTuple

from dlmbuild.doc.mistakes import Mistakes, nearest, shortened, shown

Event = Any
"""Of ruamel.yaml, whose event classes declare too little to be typed."""

MAX_DEPTH = 8
"""Of blocks within blocks; the format needs three."""

Path = tuple[str | int, ...]
Position = tuple[int, int]
"""Line and column in the file, from 1."""

_NOT_TEXT = re.compile(r"[\0\ud800-\udfff]")
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_BASED = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **{sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")},
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
_TEXT_ELSEWHERE = re.compile(r"[-+]?0[0-9]*[89][0-9]*|[-+]\.[0-9].*|[-+]?[0-9.]+[eE][0-9]+|[-+]?[0-9]+[eE].*")
"""Numbers that are text in YAML 1.1: `08`, `+.5`, `1e3`."""
_NO_ENDS = "\x85\u2028\u2029"
"""What YAML 1.1, and with it the scanner, takes for the end of a line. In YAML 1.2 these are characters as others."""
_MANY_DIGITS = 200
"""A longer number is of no use to anybody, and Python's int and float refuse in the end."""


class Mark(NamedTuple):
    """Where a key and its value begin; an item of a list is its own key, an absent value is at its key."""

    key: Position
    value: Position
    end: Position
    """Behind a scalar; of a block, where it begins."""


class UnreadableError(Exception):
    """The rest of the block makes no sense; why is among the mistakes."""


class Block:
    """A mapping written in YAML: `value` as dict, tuple, str, int, float, bool and None, `marks` by path.

    `spoilt` holds the paths that have a mistake already: their values mean nothing. `is_text` says which paths lead to
    text: what is text in YAML 1.1 is text there. Raises UnreadableError.
    """

    def __init__(self, source: str, first_line: int, mistakes: Mistakes, is_text: Callable[[Path], bool]) -> None:
        self.value: dict[str, Any] = {}
        self.marks: dict[Path, Mark] = {}
        self.spoilt: set[Path] = set()
        self._source = source
        self._first_line = first_line
        self._mistakes = mistakes
        self._is_text = is_text
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", source))]
        self._read(self._events(source))

    def written(self, path: Path) -> str:
        """A scalar as it stands in the file."""
        return self._source[self._offset(self.marks[path].value) : self._offset(self.marks[path].end)]

    def value_at(self, path: Path) -> Any:
        """The value that a path leads to."""
        value: Any = self.value
        for key in path:
            value = value[key]
        return value

    def is_spoilt(self, path: Path) -> bool:
        """Whether a value, or a block that it is in, has a mistake already."""
        return any(path[:length] in self.spoilt for length in range(len(path) + 1))

    def refuse_key(self, path: Path, known: Collection[str], do: str = "") -> None:
        """Note a key that is none of those `known`; without `do` the nearest of them is what was meant."""
        *outer, key = path
        guess = nearest(str(key), known)
        do = do or (f'did you mean "{guess}"?' if guess else f"the keys are {', '.join(known)}")
        place = f" in {spelled(outer)}" if outer else ""
        what, why = f"unknown key {shown(key)}{place}", "it would change nothing"
        self._mistakes.add(*self.marks[path].key, what, why=why, do=do)

    def _read(self, events: Iterator[Event]) -> None:
        ended = False
        for event in events:
            kind = type(event).__name__
            if kind == "DocumentStartEvent" and ended:
                self._refuse(self._at(event), "a second YAML document", do="keep one block of keys")
            elif kind == "DocumentEndEvent":
                ended = True
            elif kind == "MappingStartEvent":
                self.value = self._node(event, events, ())
            elif not (kind.startswith(("Stream", "Document")) or _is_absent(event)):
                self._refuse(self._at(event), "this is not a block of keys", do="write one `key: value` on each line")

    def _events(self, source: str) -> Iterator[Event]:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError
        from ruamel.yaml.reader import ReaderError

        at = self._place(0)
        hidden = _stand_ins(source)
        shown = {new: old for old, new in hidden.items()}
        try:
            for event in YAML(typ="safe", pure=True).parse(source.translate(hidden)):
                at = self._at(event)
                if hidden and type(event).__name__ == "ScalarEvent":
                    event.value = event.value.translate(shown)
                yield event
        except ReaderError as error:
            what = f"the character U+{error.character:04X} in YAML"
            self._refuse(self._place(error.position), what, why="it is not text", do="delete it")
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            spelt = {new: f"U+{old:04X}" for old, new in hidden.items()}
            why = shortened(str(error.problem or error.context).replace("\n", " ").translate(spelt))
            do = "indent with spaces, put a space after each colon, and quote text that holds : or #"
            self._refuse(self._place(mark.index) if mark else at, "this is not YAML", why=why, do=do)
        except (ValueError, OverflowError) as error:  # an escape such as "\UFFFFFFFF" takes the scanner down
            self._refuse(at, "this is not YAML", why=shortened(str(error)), do="check the escapes after this place")

    def _node(self, event: Event, events: Iterator[Event], path: Path) -> Any:
        kind = type(event).__name__
        if kind == "AliasEvent":
            self._spoil(path, event, f"alias *{shortened(event.anchor)}", do="write the value itself")
            return None
        if event.anchor is not None:
            self._spoil(path, event, f"anchor &{shortened(event.anchor)}", do="delete it")
        if event.tag is not None:
            self._spoil(path, event, f"tag {shortened(event.tag)}", do="delete it; quotes make text of anything")
        if kind == "ScalarEvent":
            return self._scalar(event, path)
        if len(path) >= MAX_DEPTH:
            self._refuse(self._at(event), f"more than {MAX_DEPTH} levels of blocks", do="the format needs three")
        return self._mapping(events, path) if kind == "MappingStartEvent" else self._list(events, path)

    def _mapping(self, events: Iterator[Event], path: Path) -> dict[str, Any]:
        block: dict[str, Any] = {}
        for event in events:
            if type(event).__name__ == "MappingEndEvent":
                break
            at = self._at(event)
            if type(event).__name__ != "ScalarEvent":
                self._refuse(at, "a key that is not a word", do="write `key: value`")
            key = event.value
            inner = (*path, key)
            if key in block:
                self.spoilt.add(inner)  # nobody knows which of the two is meant
                why = f"the first is on line {self.marks[inner].key[0]}"
                self._mistakes.add(*at, f"key {shown(key)} a second time", why=why, do="delete one of them")
            value = next(events)
            self.marks[inner] = self._mark(value, event if _is_absent(value) else value, at)
            block[key] = self._node(value, events, inner)
        return block

    def _list(self, events: Iterator[Event], path: Path) -> tuple[Any, ...]:
        items: list[Any] = []
        for event in events:
            if type(event).__name__ == "SequenceEndEvent":
                break
            inner = (*path, len(items))
            self.marks[inner] = self._mark(event, event, self._at(event))
            items.append(self._node(event, events, inner))
        return tuple(items)

    def _scalar(self, event: Event, path: Path) -> Any:
        text: str = event.value
        if _NOT_TEXT.search(text):
            self._spoil(path, event, "an escape for something that is not a character", do="delete it")
        if event.style or (_TEXT_ELSEWHERE.fullmatch(text) and self._is_text(path)):
            return text
        # The digits of an identity may happen to spell a number; it is text all the same.
        return text if path == ("dlm_id",) else _core_schema(text)

    def _mark(self, value: Event, shown: Event, key: Position) -> Mark:
        at = self._at(shown)
        scalar = type(value).__name__ == "ScalarEvent"
        return Mark(key, at, self._place(shown.end_mark.index) if scalar else at)

    def _spoil(self, path: Path, event: Event, what: str, *, do: str) -> None:
        self.spoilt.add(path)
        self._mistakes.add(*self._at(event), what, why="only plain keys, values and lists are read here", do=do)

    def _refuse(self, at: Position, what: str, *, why: str = "", do: str = "") -> None:
        self._mistakes.add(*at, what, why=why, do=do)
        raise UnreadableError

    def _at(self, event: Event) -> Position:
        return self._place(event.start_mark.index)

    def _offset(self, at: Position) -> int:
        return self._line_starts[at[0] - self._first_line] + at[1] - 1

    def _place(self, index: int) -> Position:
        row = bisect_right(self._line_starts, index) - 1
        return self._first_line + row, index - self._line_starts[row] + 1


def spelled(path: Iterable[str | int]) -> str:
    """A path as errors and the docs spell it: `training.sources[0].path`."""
    return "".join(f"[{key}]" if type(key) is int else f".{key}" for key in path).removeprefix(".")


def _is_absent(event: Event) -> bool:
    return type(event).__name__ == "ScalarEvent" and not event.value and not event.style


def _stand_ins(source: str) -> dict[int, int]:
    """For the characters that end no line: others for the scanner, which the source does not have."""
    found = [end for end in _NO_ENDS if end in source]
    used = set(source) if found else set()
    free = (code for code in range(0x10000, 0x110000) if chr(code) not in used)
    return {ord(end): next(free) for end in found}


def _core_schema(text: str) -> Any:
    """The value of a plain scalar."""
    if text in _WORDS:
        return _WORDS[text]
    number = NUMBER.fullmatch(text)
    if number:
        whole = "." not in text and number[3] is None
        return int(text) if whole and len(text) <= _MANY_DIGITS else float(text)
    if _BASED.fullmatch(text) and len(text) <= _MANY_DIGITS:
        return int(text, 0)
    return text
