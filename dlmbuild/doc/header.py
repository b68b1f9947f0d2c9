"""The little that the build graph needs of a document, mostly without reading its body."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlmbuild.doc.frontmatter import Head, read_head
from dlmbuild.doc.mistakes import Mistakes
from dlmbuild.doc.names import Quantisation, check_name
from dlmbuild.doc.routing import trains
from dlmbuild.errors import DocumentError, InvalidDocument
from dlmbuild.io.text import decode_text


@dataclass(frozen=True, slots=True)
class Header:
    """Who a document is, what it is built on, and what `doit` alone exports."""

    dlm_id: str
    base_model: str
    default_quant: Quantisation
    sources: dict[str, Any] = field(default_factory=dict)
    """`given` and `policy`: `training.sources` and `training.sources_policy` as data. Empty where there are none."""
    prefers: bool = False
    """Whether its adapter is trained on preferences, after the rows."""
    evaluates: bool = False
    """Whether it says what its model must reach."""
    retention: float | None = None
    """How strongly it holds its model to what the base says by itself; None where the recipe decides."""
    whole: list[str] = field(default_factory=list)
    """Its adapters, by name ("" for the only one), that no LoRA file can hold: they are exported merged alone."""
    adapters: dict[str, bool] = field(default_factory=dict)
    """The adapters that it names, in their order → whether they are trained on preferences. See build/trained.py."""
    mixes: dict[str, Any] = field(default_factory=dict)
    """`export.mixes` as data: `weights` and `rank` of each."""
    gated: bool = False
    """Whether it has a gate trained between its adapters."""
    imatrix: bool = True
    """Whether its models are rounded by an importance matrix."""


def read_header(data: bytes, path: str) -> Header:
    """The header of the document `data`. Raises InvalidDocument for mistakes in its name and frontmatter."""
    mistakes = Mistakes(path)
    check_name(Path(path).stem, mistakes)
    try:
        text = decode_text(data, path)
        head = read_head(text, mistakes)
        values = head.values
    except DocumentError as error:
        raise InvalidDocument([error]) from None
    if len(mistakes) or values is None:
        mistakes.stop()
    given = [source.model_dump(mode="json") for source in values.training.sources or ()]
    kinds = {name: one.adapter for name, one in (values.training.adapters or {}).items()}
    kinds = kinds or {"": values.training.adapter}
    named = list(values.training.adapters or ())
    preferring = _preferring(text, head, named) if values.training.preference.enabled is not False else set()
    return Header(
        values.dlm_id,
        values.base_model,
        values.export.default_quant,
        {"given": given, "policy": values.training.sources_policy} if given else {},
        bool(preferring),
        any(wanted is not None for _, wanted in values.evaluate),
        None if values.training.retention == "auto" else values.training.retention,
        [name for name, kind in kinds.items() if kind == "dora"],
        {name: name in preferring for name in named},
        {name: mix.model_dump() for name, mix in (values.export.mixes or {}).items()},
        values.training.gate.enabled,
        values.export.imatrix == "auto",
    )


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
