"""The little that the build graph needs of a document, mostly without reading its body."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlmbuild.doc.frontmatter import Head, read_head
from dlmbuild.doc.mistakes import Mistakes
from dlmbuild.doc.names import check_name
from dlmbuild.doc.routing import trains
from dlmbuild.errors import DocumentError, InvalidDocument
from dlmbuild.io.text import decode_text


def read_header(data: bytes, path: str) -> dict[str, Any]:
    """The header of the document `data` as JSON data; a key that says nothing unusual is left out.

    dlm_id, base_model, default_quant   who it is, what it is built on, and what `doit` alone exports: always there
    prefers     its adapter is trained on preferences
    evaluates   it says what its model must reach
    retention   how strongly it holds its model to what the base says by itself; left out where the recipe decides
    whole       its adapters, by name ("" for the only one), that no LoRA file can hold: they are exported merged alone
    sources     `given` and `policy`: training.sources as data, and sources_policy
    adapters    those that it names, in their order, each with whether it is trained on preferences
    mixes       export.mixes as data
    gated       a gate is trained between its adapters
    imatrix     false where its models are not rounded by an importance matrix

    Raises InvalidDocument for mistakes in the document's name and frontmatter.
    """
    mistakes = Mistakes(path)
    check_name(Path(path).stem, mistakes)
    try:
        text = decode_text(data, path)
        head = read_head(text, mistakes)
    except DocumentError as error:
        raise InvalidDocument([error]) from None
    values = head.values
    if len(mistakes) or values is None:
        mistakes.stop()
    training, export = values.training, values.export
    named = list(training.adapters or ())
    kinds = {name: one.adapter for name, one in (training.adapters or {}).items()} or {"": training.adapter}
    preferring = _preferring(text, head, named) if training.preference.enabled is not False else set()
    header: dict[str, Any] = {
        "prefers": bool(preferring),
        "evaluates": any(wanted is not None for _, wanted in values.evaluate),
        "whole": [name for name, kind in kinds.items() if kind == "dora"],
        # Their order decides, and JSON's keys are sorted.
        "adapters": [[name, name in preferring] for name in named],
        "mixes": {name: mix.model_dump() for name, mix in (export.mixes or {}).items()},
        "gated": training.gate.enabled,
    }
    header = {name: value for name, value in header.items() if value}
    if training.retention != "auto":
        header["retention"] = training.retention
    if training.sources:
        given = [source.model_dump(mode="json") for source in training.sources]
        header["sources"] = {"given": given, "policy": training.sources_policy}
    if export.imatrix == "off":
        header["imatrix"] = False
    named_by = {"dlm_id": values.dlm_id, "base_model": values.base_model, "default_quant": export.default_quant}
    return {**named_by, **header}


def _preferring(text: str, head: Head, named: Sequence[str]) -> set[str | None]:
    """The adapters that preferences train, among them None for the one without a name.

    The body is read after all where it mentions any: it could be in a code block.
    """
    if "::preference" not in text:
        return set()
    from dlmbuild.doc.body import read_sections
    from dlmbuild.doc.sections import Preference
    from dlmbuild.doc.versions import ESCAPES_SINCE

    # What is wrong with the body is told by the check.
    body = read_sections(text, head.body, head.body_line, Mistakes(""), escapes=head.version >= ESCAPES_SINCE)
    found = [section for section in body.sections if isinstance(section, Preference) and section.triples]
    return {name for section in found for name in trains("preference", section.adapter, named) or (None,)}
