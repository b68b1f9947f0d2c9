"""The `---` block at the head of a document: where it ends, and what its keys say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dlmbuild.doc.block import NUMBER, Block, Mark, Path, UnreadableError
from dlmbuild.doc.mistakes import Mistakes, nearest, shown

if TYPE_CHECKING:
    from pydantic import BaseModel

    from dlmbuild.doc.schema import Frontmatter

MAX_CHARACTERS = 256 * 1024
"""Of the block; a YAML parser written in Python takes seconds for more."""

_HOW_TO_HAVE = {
    "dlm_id": "`dlm init` writes a document with a fresh one",
    "dlm_version": "write `dlm_version: 15`",
    "base_model": "write `base_model: smollm2-135m`, or another base",
}


@dataclass(frozen=True, slots=True)
class Head:
    """A frontmatter that was read: its values (None if some are wrong), their marks, and where the body begins."""

    values: Frontmatter | None
    marks: Mapping[Path, Mark]
    body: int
    """Offset in the text."""
    body_line: int


def read_head(text: str, mistakes: Mistakes) -> Head:
    """Read the frontmatter of a document's text, noting all its mistakes.

    Raises InvalidDocument at once only if the block has no clear beginning or end.
    """
    _check_opener(text, mistakes)
    end = _find_closer(text, mistakes)
    source, body_line = text[4:end], text.count("\n", 0, end) + 2
    head = Head(None, {}, min(end + 4, len(text)), body_line)
    if len(source) > MAX_CHARACTERS:
        why = f"it has {len(source)} characters; at most {MAX_CHARACTERS} are read"
        mistakes.add(2, 1, "the frontmatter is too long", why=why, do="move text into the body")
        return head
    try:
        block = Block(source, 2, mistakes)
    except UnreadableError:
        return head
    return Head(_validated(block, mistakes), block.marks, head.body, body_line)


def _check_opener(text: str, mistakes: Mistakes) -> None:
    first = text[: text.find("\n")] if "\n" in text else text
    if first == "---":
        return
    if not text or text.isspace():
        what, do = "the file is empty", "`dlm init` writes a first document"
    elif first.strip() == "---":
        what, do = "white space beside the opening ---", "delete it"
    elif text.lstrip().startswith("---\n"):
        what, do = "blank lines before the opening ---", "delete them"
    else:
        what, do = "the document has no frontmatter", "begin it with keys between two lines ---; `dlm init` writes some"
    mistakes.add(1, 1, what, why="the first line is exactly ---", do=do)
    mistakes.stop()


def _find_closer(text: str, mistakes: Mistakes) -> int:
    """Offset of the closing `---`."""
    before = 3  # the end of the opener's line
    while (before := text.find("\n---", before)) >= 0:
        end = text.find("\n", before + 4)
        rest = text[before + 4 : end if end >= 0 else len(text)]
        if not rest:
            return before + 1
        if rest.isspace():
            line = text.count("\n", 0, before) + 2
            mistakes.add(line, 4, "white space after the closing ---", why="the line is exactly ---", do="delete it")
            mistakes.stop()
        before += 4
    why, do = "nothing says where the keys end and the text begins", "put a line --- between them"
    mistakes.add(1, 1, "the frontmatter has no closing ---", why=why, do=do)
    mistakes.stop()


def _validated(block: Block, mistakes: Mistakes) -> Frontmatter | None:
    """The values as the schema has them; what it refuses is noted, one mistake for each key."""
    from pydantic import ValidationError

    from dlmbuild.doc.schema import BLOCKS, Frontmatter

    try:
        return Frontmatter.model_validate(block.value)
    except ValidationError as error:
        # Each branch of a union reports for itself, with its label in `loc`; the longest `loc` names an item of a list.
        wrong = {}
        for detail in sorted(error.errors(include_url=False), key=lambda detail: len(detail["loc"])):
            loc = detail["loc"]
            wrong[loc[: 2 if loc[0] in BLOCKS else 1]] = detail
    for path, detail in wrong.items():
        if any(path[:n] in block.spoilt for n in (0, 1, 2)):
            continue
        if detail["type"] == "missing":
            key = str(path[0])
            mistakes.add(1, 1, f"missing key {shown(key)}", why="every document has one", do=_HOW_TO_HAVE[key])
        elif detail["type"] == "extra_forbidden":
            _refuse_key(path, block, mistakes)
        else:
            item = (*path, detail["loc"][-1])
            _refuse_value(path, block.marks.get(item, block.marks[path]), block, mistakes)
    return None


def _refuse_key(path: Path, block: Block, mistakes: Mistakes) -> None:
    from dlmbuild.doc.schema import BLOCKS, UNBUILT_KEYS, Frontmatter

    *outer, key = map(str, path)
    home = ".".join(outer)
    models: dict[str, type[BaseModel]] = {"": Frontmatter, **BLOCKS}
    known = {name: list(model.model_fields) for name, model in models.items()}
    line, col = block.marks[path].key
    if key in UNBUILT_KEYS.get(home, ()):
        what = f"{home}.{key} is a known key of the format that this version does not build yet"
        mistakes.add(line, col, what, why="it would change nothing", do="delete it")
        return
    elsewhere = next((name for name, keys in known.items() if key in keys), None)
    guess = nearest(key, known[home])
    if elsewhere is not None:
        do = f"it belongs under {elsewhere}:" if elsewhere else "it belongs at the top, not indented"
    else:
        do = f'did you mean "{guess}"?' if guess else f"the keys are {', '.join(known[home])}"
    place = f" in {home}" if home else ""
    mistakes.add(line, col, f"unknown key {shown(key)}{place}", why="it would change nothing", do=do)


def _refuse_value(path: Path, mark: Mark, block: Block, mistakes: Mistakes) -> None:
    from dlmbuild.doc.schema import BLOCKS, NEWEST_VERSION, UNBUILT_VALUES, expectation, field_of

    name = ".".join(map(str, path))
    whole: Any = block.value
    for key in path:
        whole = whole[key]
    declared = field_of(path)
    what, why = f"{name} is {shown(whole)}", f"it must be {expectation(declared)}"
    if isinstance(whole, str) and whole in UNBUILT_VALUES.get(name, ()):
        why = "a known value of the format that this version does not build yet"
        do = f"it must be {expectation(declared)}"
    elif path == ("dlm_version",) and type(whole) is int and whole > NEWEST_VERSION:
        why, do = f"this document was made for a newer version; {NEWEST_VERSION} is the newest known", "update dlmbuild"
    elif name in _HOW_TO_HAVE:
        do = _HOW_TO_HAVE[name]
    elif isinstance(whole, str) and NUMBER.fullmatch(whole):
        do = "delete the quotes"
    elif declared.default is None or name in BLOCKS:
        do = "mend it, or delete the key"
    else:
        do = f"mend it, or delete the key: without it, it is {declared.default}"
    mistakes.add(*mark.value, what, why=why, do=do)
