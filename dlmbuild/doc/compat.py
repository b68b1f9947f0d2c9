"""What the public parser of the format reads in another way than this program does.

It differs where that parser is known to be wrong: see docs/format.md. Nothing here decides what a document means.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from operator import attrgetter

from dlmbuild.doc.block import Mark, Path, spelled
from dlmbuild.doc.document import Reading
from dlmbuild.doc.schema import block_in, field_of
from dlmbuild.doc.sections import Instruction, Preference
from dlmbuild.errors import DocumentError, Where

PUBLIC_VERSION = 15
"""The newest version that the public parser reads."""

_NUMBERS_THERE = ("lora_r", "lora_alpha", "lora_dropout", "sequence_len", "learning_rate", "num_epochs", "warmup_ratio")
"""Keys of `training` that are `auto` here where nothing is written, and have one value for all bases there."""
_QUANTISATIONS_THERE = ("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0")
_NO_AUTO_THERE: dict[tuple[str, ...], str] = {
    **{("training", key): "it wants a number" for key in _NUMBERS_THERE},
    ("training", "lr_scheduler"): "it does not know auto here",
    ("training", "preference", "hyperparams", "learning_rate"): "it does not know auto here",
    ("training", "preference", "hyperparams", "num_epochs"): "it does not know auto here",
}
_HEADERS = frozenset(("### Q", "### Q !probe", "### A", "### Prompt", "### Chosen", "### Rejected"))
_FENCE = re.compile(r'::[A-Za-z0-9_#-]+::|::[a-z][a-z0-9_]*( [a-z][a-z0-9_]*="[^"]*")+::')
_OTHER_ENDS = re.compile(r"[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_YAML_1_1 = re.compile(
    r"(yes|no|on|off)|=|<<|[-+]?0[0-7_]+|0o[0-7]+|[-+]?0b[01_]+|[-+]0x[\da-f_]+|0x[\da-f]*_[\da-f_]*"
    r"|[-+]?\d[\d_]*_[\d_.]*|[-+]?\d[\d_]*\._+|\.\d[\d_]*_[\d_]*|[-+]?\d[\d_]*\.\d+_[\d_]*|[-+]?\d+(:[0-5]?\d)+(\.\d*)?"
    r"|\d{4}-\d\d-\d\d|\d{4}-\d\d?-\d\d?([Tt]|[ \t]+)\d.*",
    re.IGNORECASE | re.ASCII,
)
"""Plain words that are true, false, a number, a date or an error in YAML 1.1, and something else in 1.2."""

Note = tuple[int, int, str, str]
"""Line, column, what is there, and how the public parser takes it."""


def differences(found: Reading, path: str) -> list[DocumentError]:
    """The differences with their positions, in the order of lines; of each kind at most one for a section."""
    if found.head is None:
        return []
    notes = [*_frontmatter(found), *_code_blocks(found), *_sections(found)]
    return [DocumentError(what, where=Where(path, line, col), why=why) for line, col, what, why in sorted(set(notes))]


def _frontmatter(found: Reading) -> Iterator[Note]:
    assert found.head is not None
    marks, values = found.head.marks, found.head.values
    if found.head.version > PUBLIC_VERSION and ("dlm_version",) in marks:
        yield (
            *marks["dlm_version",].value,
            f"dlm_version {found.head.version}",
            f"it knows {PUBLIC_VERSION} versions and refuses this document",
        )
    lines = found.body.text.split("\n", found.head.body_line)
    for number, written in enumerate(lines[: found.head.body_line - 1], 1):
        for other in _OTHER_ENDS.finditer(written):
            yield number, other.start() + 1, f"the character U+{ord(other[0]):04X}", "it ends a line with it"
    for path, mark in marks.items():
        line, col = mark.value
        word = lines[line - 1][col - 1 : mark.end[1] - 1] if mark.end[0] == line else ""
        if _YAML_1_1.fullmatch(word) and path != ("dlm_id",):
            why = "it reads YAML 1.1, in which this is something else"
            yield line, col, f"{spelled(path)}: {word}", why
        if _is_null(path, mark, word):
            yield *mark.key, f"nothing is written under {spelled(path)}", "it refuses a block without keys"
    if values is None:
        return
    training, export = values.training, values.export
    quant, base = export.default_quant, values.base_model
    differing = [
        (("training", "preference", "enabled"), "null", training.preference.enabled is None, "it wants true or false"),
        (("base_model",), base, ":" in base and not base.startswith("hf:"), "it knows registry names and hf: only"),
        (("export", "default_quant"), quant, quant not in _QUANTISATIONS_THERE, f"it refuses {quant} here"),
        (("export", "default_temperature"), "0", export.default_temperature == 0, "it must be above 0 there"),
        *((path, "auto", attrgetter(spelled(path))(values) == "auto", why) for path, why in _NO_AUTO_THERE.items()),
    ]
    for path, value, differs, why in differing:
        if differs and path in marks:
            yield *marks[path].value, f"{spelled(path)}: {value}", why
    left_out = [key for key in _NUMBERS_THERE if ("training", key) not in marks]
    if left_out:
        why = "it takes the same values for all bases where this program takes measured ones"
        yield 1, 1, f"nothing is written for {', '.join(left_out)}", why


def _is_null(path: Path, mark: Mark, word: str) -> bool:
    """Whether a path leads to a block of which no key is written."""
    if mark.value != mark.key and word not in ("~", "null", "Null", "NULL"):
        return False
    try:
        field, declared = field_of(path)
    except KeyError:
        return False
    block, deeper = block_in(declared.annotation)
    return field == path and block is not None and not deeper


def _code_blocks(found: Reading) -> Iterator[Note]:
    """Fences that stand in a code block by one rule and not by the other; the first, for all after it follow from it.

    There every line that begins with three backticks opens or closes a block, and no other does.
    """
    text = found.body.text
    fences = {section.line for section in found.body.sections}
    first = found.head.body_line if found.head else 1
    code = False
    for number, line in enumerate(text.split("\n")[first - 1 :], first):
        if line.startswith("```"):
            code = not code
        elif line.startswith("::") and _FENCE.fullmatch(line) and code == (number in fences):
            yield number, 1, line[:60], "it takes this for code" if code else "it takes this for a fence"
            return
    if code:
        yield first, 1, "an odd number of lines that begin with ```", "it finds a code block that is never closed"


def _sections(found: Reading) -> Iterator[Note]:
    text = found.body.text
    row, counted = 1, 0
    for number, section in enumerate(found.body.sections):
        if not isinstance(section, Instruction | Preference):
            continue
        start, end = found.body.spans[number]
        row += text.count("\n", counted, start)
        counted = start
        groups = section.pairs if isinstance(section, Instruction) else section.triples
        headers = {line for group in groups for line in group if type(line) is int}  # nothing else there is a number
        for at, line in enumerate(text[start:end].split("\n"), row):
            there, here = line.strip() in _HEADERS, at in headers
            if there != here:
                why = "it begins a new part of the section" if there else "it is a part of the text above"
                yield at, 1, line.strip()[:60], why
            elif not there and line.strip() and line[0].isspace() and at - 1 in headers:
                yield at, 1, "white space at the beginning of a text", "it leaves it off"
            other = _OTHER_ENDS.search(line)
            if other:
                yield at, other.start() + 1, f"the character U+{ord(other[0]):04X}", "it ends a line with it"
