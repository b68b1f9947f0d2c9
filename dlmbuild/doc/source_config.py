"""What a folder of sources says about itself: `.dlm/training.yaml` and `.dlm/ignore` in it.

Both hold for the folder and everything below it, and patterns are relative to it. A file with a mistake is never read
in part: what it was to keep out would be trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from dlmbuild.doc import ignore
from dlmbuild.doc.block import Block, Path, UnreadableError, spelled
from dlmbuild.doc.frontmatter import MAX_CHARACTERS
from dlmbuild.doc.mistakes import Mistakes, nearest, shown
from dlmbuild.errors import DlmError, DocumentError, InvalidDocument
from dlmbuild.io.text import decode_text

_KEYS = {
    "dlm_training_version": "1",
    "include": "a list of patterns",
    "exclude": "a list of patterns",
    "exclude_defaults": "true or false",
    "metadata": "keys, each with a text",
    "weights": "keys of metadata, each with values and a number from 0 to 100 for each",
}
_MAX_WEIGHT = 100


class Config(NamedTuple):
    """Both files of one folder."""

    include: tuple[str, ...] = ()
    """Empty where the folder does not say: then the one above decides."""
    exclude: tuple[str, ...] = ()
    exclude_defaults: bool | None = None
    """None where there is no training.yaml."""
    metadata: Mapping[str, str] = {}
    weights: Mapping[str, Mapping[str, float]] = {}
    ignore: tuple[str, ...] = ()

    def as_data(self) -> dict[str, Any]:
        return self._asdict()

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Config:
        """The inverse of `as_data`, with lists for tuples as JSON has them."""
        lists = {name: tuple(data[name]) for name in ("include", "exclude", "ignore")}
        return cls(**{**data, **lists})


def read_config(yaml: bytes | None, patterns: bytes | None, folder: str) -> Config:
    """Read the content of both files; None for one that is not there. `folder` is how errors name their folder.

    Raises InvalidDocument with all mistakes of both.
    """
    config, errors = Config(), list[DlmError]()
    for name, data in (("training.yaml", yaml), ("ignore", patterns)):
        mistakes = Mistakes(f"{folder}/{name}")
        try:
            text = "" if data is None else _text(data, mistakes)
            if name == "ignore":
                config = config._replace(ignore=tuple(ignore.read_ignore(text, mistakes)))
            elif data is not None:
                config = _training(text, mistakes)
            errors += mistakes
        except InvalidDocument as error:
            errors += error.errors
    if errors:
        raise InvalidDocument(errors)
    return config


def _text(data: bytes, mistakes: Mistakes) -> str:
    if len(data) > MAX_CHARACTERS:
        mistakes.add(1, 1, "the file is too long", why=f"at most {MAX_CHARACTERS} bytes are read", do="shorten it")
        mistakes.stop()
    try:
        return decode_text(data, mistakes.path)
    except DocumentError as error:
        raise InvalidDocument([error]) from None


def _training(text: str, mistakes: Mistakes) -> Config:
    try:
        block = Block(text, 1, mistakes, lambda path: path[0] in ("include", "exclude", "metadata"))
    except UnreadableError:
        return Config()
    for key in block.value:
        if key not in _KEYS:
            guess = nearest(key, _KEYS)
            do = f'did you mean "{guess}"?' if guess else f"the keys are {', '.join(_KEYS)}"
            mistakes.add(*block.marks[(key,)].key, f"unknown key {shown(key)}", why="it would change nothing", do=do)
    given = {key: value for key, value in block.value.items() if key in _KEYS and (key,) not in block.spoilt}
    checked = _Checked(given, block, mistakes)
    checked.version()
    return Config(
        checked.patterns("include"),
        checked.patterns("exclude"),
        checked.flag("exclude_defaults"),
        checked.metadata(),
        checked.weights(),
    )


class _Checked:
    """The values of a training.yaml; what is wrong with them is noted."""

    def __init__(self, given: Mapping[str, Any], block: Block, mistakes: Mistakes) -> None:
        self._given, self._block, self._mistakes = given, block, mistakes

    def version(self) -> None:
        version = self._given.get("dlm_training_version", 1)
        if type(version) is not int or version != 1:
            self._refuse(("dlm_training_version",), version)

    def patterns(self, key: Literal["include", "exclude"]) -> tuple[str, ...]:
        value = self._given.get(key)
        if value is None:
            return ()
        if not isinstance(value, tuple) or len(value) > ignore.MAX_PATTERNS:
            self._refuse((key,), value)
            return ()
        for at, pattern in enumerate(value):
            if not isinstance(pattern, str) or not pattern.strip():
                self._refuse((key, at), pattern)
            elif wrong := ignore.refusal(pattern):
                place = self._block.marks[(key, at)].value
                self._mistakes.add(*place, wrong.what, why=wrong.why, do=wrong.do)
        return value

    def flag(self, key: str) -> bool:
        value = self._given.get(key, True)
        if not isinstance(value, bool):
            self._refuse((key,), value)
        return value is not False

    def metadata(self) -> dict[str, str]:
        return {key: value for key, value in self._mapping(("metadata",)).items() if self._is_text(("metadata", key))}

    def weights(self) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for key in self._mapping(("weights",)):
            found[key] = {}
            for value, weight in self._mapping(("weights", key)).items():
                if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= _MAX_WEIGHT:
                    self._refuse(("weights", key, value), weight)
                else:
                    found[key][value] = float(weight)
        return found

    def _mapping(self, path: Path) -> dict[str, Any]:
        value: Any = self._given
        for key in path:
            value = value.get(key)
        if value is not None and not isinstance(value, dict):
            self._refuse(path, value)
        return value if isinstance(value, dict) else {}

    def _is_text(self, path: Path) -> bool:
        value = self._given[str(path[0])][path[1]]
        if not isinstance(value, str):
            self._refuse(path, value)
        return isinstance(value, str)

    def _refuse(self, path: Path, value: Any) -> None:
        if any(path[:length] in self._block.spoilt for length in range(len(path) + 1)):
            return
        key, name = str(path[0]), spelled(path)
        do = "put quotes around it" if key == "metadata" and len(path) > 1 else "mend it, or delete it"
        why = f"{key} holds {_KEYS[key]}"
        self._mistakes.add(*self._block.marks[path].value, f"{name} is {shown(value)}", why=why, do=do)
