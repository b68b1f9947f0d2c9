"""The `---` block at the head of a document: where it ends, and what its keys say."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from math import isinf
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

from dlmbuild.doc.block import NUMBER, Block, Mark, Path, Position, UnreadableError, spelled
from dlmbuild.doc.mistakes import Mistakes, shortened, shown
from dlmbuild.doc.prompt import ends_a_block, what_is_lost
from dlmbuild.doc.versions import NEWEST_VERSION, SINCE, TO_HAVE_IT, upgrade

if TYPE_CHECKING:
    from pydantic import ValidationError

    from dlmbuild.doc.schema import Frontmatter

MAX_CHARACTERS = 256 * 1024
"""Of the block; a YAML parser written in Python takes seconds for more."""

_HOW_TO_HAVE = {
    "dlm_id": "`dlm init` writes a document with a fresh one",
    "dlm_version": f"write `dlm_version: {NEWEST_VERSION}`",
    "base_model": "write `base_model: smollm2-135m`, or another base",
}


class Head(NamedTuple):
    """A frontmatter that was read: its values (None if some are wrong), their marks, and where the body begins."""

    values: Frontmatter | None
    marks: Mapping[Path, Mark]
    body: int
    """Offset in the text."""
    body_line: int
    version: int
    base: str = ""
    """What `base_model` says, however wrong the rest is; empty where that cannot be told."""
    sources: Mapping[int, Mapping[str, Any]] = {}
    """Those of `training.sources` that are well written, by their place, however wrong the rest is."""
    sources_policy: str = "permissive"


def read_head(text: str, mistakes: Mistakes) -> Head:
    """Read the frontmatter of a document's text, noting all its mistakes.

    Raises InvalidDocument at once only if the block has no clear beginning or end.
    """
    _check_opener(text, mistakes)
    end = _find_closer(text, mistakes)
    source, body_line = text[4:end], text.count("\n", 0, end) + 2
    head = Head(None, {}, min(end + 4, len(text)), body_line, NEWEST_VERSION)
    if len(source) > MAX_CHARACTERS:
        why = f"it has {len(source)} characters; at most {MAX_CHARACTERS} are read"
        mistakes.add(2, 1, "the frontmatter is too long", why=why, do="move text into the body")
        return head
    try:
        block = Block(source, 2, mistakes, _is_text)
    except UnreadableError:
        return head
    version = block.value.get("dlm_version")
    version = version if type(version) is int else NEWEST_VERSION
    for path, since in SINCE.items():
        if version < since and path in block.marks:
            what, why = f"{spelled(path)} in version {version}", f"version {since} has it first"
            mistakes.add(*block.marks[path].key, what, why=why, do=TO_HAVE_IT)
    base = "" if ("base_model",) in block.spoilt else block.value.get("base_model")
    upgrade(block, mistakes)
    values = _validated(block, mistakes)
    base = base if isinstance(base, str) else ""
    return Head(values, block.marks, head.body, body_line, version, base, *_sources(block))


def _is_text(path: Path) -> bool:
    from dlmbuild.doc.schema import field_of

    try:
        declared = field_of(path)[1]
    except KeyError:
        return False
    return _holds_text(declared.annotation)


def _holds_text(kind: Any) -> bool:
    return kind is str or any(_holds_text(inner) for inner in get_args(kind))


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

    from dlmbuild.doc.schema import Frontmatter, contradictions, unbuilt, validated

    values, wrong, excluded = None, set(), []
    try:
        values = validated(block.value)
    except ValidationError as error:
        wrong = _refuse(error, block, mistakes)
    else:
        _check_prompt(values.system_prompt or "", block, mistakes)
        excluded = list(contradictions(values))
    for path, why, do in [*unbuilt(block.value, Frontmatter), *excluded]:
        if not block.is_spoilt(path) and not any(key[: len(path)] == path for key in wrong):
            _refuse_value(path, block.marks[path].value, block, mistakes, why=why, do=do)
    return values


def _sources(block: Block) -> tuple[Mapping[int, Mapping[str, Any]], str]:
    """What `training.sources` and `sources_policy` say, as far as that is well written."""
    from pydantic import ValidationError

    from dlmbuild.doc.schema import Source

    training = block.value.get("training")
    training = training if isinstance(training, dict) else {}
    given, policy = training.get("sources"), training.get("sources_policy")
    found = {}
    for at, source in enumerate(given if isinstance(given, tuple) else ()):
        path = ("training", "sources", at)
        if not any(key[:3] == path or path[: len(key)] == key for key in block.spoilt):
            with suppress(ValidationError):  # which is among the mistakes
                found[at] = Source.model_validate(source).model_dump()
    return found, "strict" if policy == "strict" else "permissive"


def _refuse(error: ValidationError, block: Block, mistakes: Mistakes) -> set[Path]:
    """Note what is wrong; returns the paths of the keys."""
    from dlmbuild.doc.schema import expectation, field_of

    # Each branch of a union reports for itself, with its label in `loc`; the longest path names an item of a list.
    wrong: dict[Path, tuple[Path, str]] = {}
    for detail in error.errors(include_url=False):
        path = written_path(detail["loc"], block)
        if detail["type"] == "missing":
            path = (*path, detail["loc"][-1])
        key = path if detail["type"] in ("missing", "extra_forbidden") else field_of(path)[0]
        if key not in wrong or len(path) > len(wrong[key][0]):
            wrong[key] = path, detail["type"]
    for key, (path, kind) in wrong.items():
        if block.is_spoilt(path):
            continue
        if kind == "missing":
            line, col = block.marks[key[:-1]].value if len(key) > 1 else (1, 1)
            why = "every document has one" if len(key) == 1 else "nothing says what is meant"
            do = _HOW_TO_HAVE.get(str(key[-1]), f"write `{key[-1]}: …`")
            mistakes.add(line, col, f"missing key {shown(key[-1])}", why=why, do=do)
        elif kind == "extra_forbidden":
            _refuse_key(key, block)
        elif kind == "string_pattern_mismatch":
            what, name = f"{shown(path[-1])} is no name", spelled(key)
            why = f"{name} must be {expectation(field_of(key)[1])}"
            mistakes.add(*block.marks[path].key, what, why=why, do="rename it")
        else:
            _refuse_value(key, block.marks[path].value, block, mistakes)
    return set(wrong)


def written_path(loc: Path, block: Block) -> Path:
    """The path of what pydantic complains of at `loc`, in which there are names of branches as well."""
    path: Path = ()
    for part in loc:
        if (*path, part) in block.marks:
            path = (*path, part)
    return path


def _check_prompt(prompt: str, block: Block, mistakes: Mistakes) -> None:
    lost = what_is_lost(prompt)
    if lost and ("system_prompt",) not in block.spoilt:
        what, why = f"system_prompt holds {lost}", "Ollama would not read it back from a Modelfile"
        do = "break the line elsewhere" if ends_a_block(prompt) else "write it without"
        mistakes.add(*block.marks["system_prompt",].value, what, why=why, do=do)


def _refuse_key(path: Path, block: Block) -> None:
    from dlmbuild.doc.schema import block_at, homes

    *outer, key = path
    elsewhere = next((name for name, model in homes() if key in model.model_fields), None)
    do = ""
    if path == ("training", "dpo"):
        do = "from version 2 on it is training.preference"
    elif elsewhere is not None:
        do = f"it belongs under {elsewhere}:" if elsewhere else "it belongs at the top, not indented"
    block.refuse_key(path, block_at(tuple(outer)).model_fields, do)


def _refuse_value(path: Path, at: Position, block: Block, mistakes: Mistakes, *, why: str = "", do: str = "") -> None:
    from dlmbuild.doc.schema import block_in, expectation, field_of

    name = spelled(path)
    whole = block.value_at(path)
    declared = field_of(path)[1]
    wanted = f"it must be {expectation(declared)}"
    usual = declared.default
    if path == ("dlm_version",) and type(whole) is int and whole > NEWEST_VERSION:
        wanted, do = f"it was made for a newer version; {NEWEST_VERSION} is the newest known", "update dlmbuild"
    elif do:
        pass
    elif len(path) == 1 and name in _HOW_TO_HAVE:
        do = _HOW_TO_HAVE[name]
    elif isinstance(whole, str) and NUMBER.fullmatch(whole):
        do = "delete the quotes"
    elif usual is None or declared.is_required() or block_in(declared.annotation)[0]:
        do = "delete the key" if why else "mend it, or delete the key"
    else:
        do = f"mend it, or delete the key: without it, it is {usual if isinstance(usual, str) else shown(usual)}"
    # A number beyond all floats was hardly written as Infinity.
    found = shortened(block.written(path)) if isinstance(whole, float) and isinf(whole) else shown(whole)
    mistakes.add(*at, f"{name} is {found}", why=why or wanted, do=do)
