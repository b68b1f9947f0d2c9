"""What a folder of sources says about itself: `.dlm/training.yaml` and `.dlm/ignore` in it.

Both hold for the folder and everything below it, and patterns are relative to it. A file with a mistake is never read
in part: what it was to keep out would be trained.
"""

from __future__ import annotations

from typing import Any

from dlmbuild.doc import ignore
from dlmbuild.doc.block import Block, Path, UnreadableError, spelled
from dlmbuild.doc.frontmatter import MAX_CHARACTERS, written_path
from dlmbuild.doc.mistakes import Mistakes, shown
from dlmbuild.errors import DlmError, DocumentError, InvalidDocument
from dlmbuild.io.text import decode_text


def read_config(yaml: bytes | None, patterns: bytes | None, folder: str) -> dict[str, Any]:
    """Read the content of both files as JSON data; None for one that is not there. `folder` is how errors name theirs.

    include, exclude, ignore    patterns; without any of `include` the folder above decides
    exclude_defaults            null where there is no training.yaml
    metadata                    key → text
    weights                     key of metadata → its values → how often such a file is trained

    Raises InvalidDocument with all mistakes of both.
    """
    config: dict[str, Any] = {"include": [], "exclude": [], "exclude_defaults": None, "metadata": {}, "weights": {}}
    errors = list[DlmError]()
    for name, data in (("training.yaml", yaml), ("ignore", patterns)):
        mistakes = Mistakes(f"{folder}/{name}")
        try:
            text = "" if data is None else _text(data, mistakes)
            if name == "ignore":
                config["ignore"] = ignore.read_ignore(text, mistakes)
            elif data is not None:
                config |= _training(text, mistakes)
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


def _training(text: str, mistakes: Mistakes) -> dict[str, Any]:
    """What a training.yaml says; whatever was found of it where it has mistakes."""
    from pydantic import ValidationError

    from dlmbuild.doc.schema import SourceConfig

    try:
        block = Block(text, 1, mistakes, lambda path: path[0] in ("include", "exclude", "metadata"))
    except UnreadableError:
        return {}
    for key in ("include", "exclude"):
        given = block.value.get(key)
        for at, pattern in enumerate(given if isinstance(given, tuple) else ()):
            if isinstance(pattern, str) and pattern.strip() and (bad := ignore.refusal(pattern)):
                mistakes.add(*block.marks[(key, at)].value, bad.what, why=bad.why, do=bad.do)
    try:
        found = SourceConfig.model_validate(block.value)
    except ValidationError as error:
        wrong = {written_path(one["loc"], block): one["type"] for one in error.errors()}
        for path, kind in wrong.items():
            if kind == "extra_forbidden":
                block.refuse_key(path, SourceConfig.model_fields)
            elif not block.is_spoilt(path):
                _refuse_value(path, block, mistakes)
        return {}
    return found.model_dump(mode="json", exclude={"dlm_training_version"})


def _refuse_value(path: Path, block: Block, mistakes: Mistakes) -> None:
    from dlmbuild.doc.schema import SourceConfig, expectation

    key, value = str(path[0]), block.value_at(path)
    do = "put quotes around it" if key == "metadata" and len(path) > 1 else "mend it, or delete it"
    why = f"{key} holds {expectation(SourceConfig.model_fields[key])}"
    mistakes.add(*block.marks[path].value, f"{spelled(path)} is {shown(value)}", why=why, do=do)
