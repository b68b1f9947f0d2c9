"""The little that the build graph needs of a document, without reading its body."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dlmbuild.doc.frontmatter import read_head
from dlmbuild.doc.mistakes import Mistakes
from dlmbuild.doc.names import Quantisation, check_name
from dlmbuild.errors import DocumentError, InvalidDocument
from dlmbuild.io.text import decode_text


@dataclass(frozen=True, slots=True)
class Header:
    """Who a document is, what it is built on, and what `doit` alone exports."""

    dlm_id: str
    base_model: str
    default_quant: Quantisation


def read_header(data: bytes, path: str) -> Header:
    """The header of the document `data`. Raises InvalidDocument for mistakes in its name and frontmatter."""
    mistakes = Mistakes(path)
    check_name(Path(path).stem, mistakes)
    try:
        values = read_head(decode_text(data, path), mistakes).values
    except DocumentError as error:
        raise InvalidDocument([error]) from None
    if len(mistakes) or values is None:
        mistakes.stop()
    return Header(values.dlm_id, values.base_model, values.export.default_quant)
