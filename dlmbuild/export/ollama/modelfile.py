"""The Modelfile, as current Ollama accepts it (grammar: https://docs.ollama.com/modelfile).

One merged GGUF and no ADAPTER, which Ollama refuses since 0.34.1. TEMPLATE is left out where templates.py finds none:
from 0.30 on Ollama then renders the template inside the GGUF, and that is the one the model was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dlmbuild.doc.prompt import ends_a_block
from dlmbuild.errors import ExportError
from dlmbuild.inference.llama_cpp import UNCUT

DRAWN: Mapping[str, float] = {"top_p": 1.0, **UNCUT}
"""What Ollama is told where tokens are drawn, or it would cut some off by itself: for top_k, 0 is all."""


@dataclass(frozen=True, slots=True)
class Modelfile:
    """What a Modelfile says. `text` depends on nothing else: no clock, no path."""

    model: str
    """File name of the GGUF beside the Modelfile."""
    comment: str
    parameters: Mapping[str, Any]
    """What it sets, as the API takes it."""
    system: str | None
    license: str
    template: str | None = None
    """In Go's language; see templates.py."""

    @property
    def text(self) -> str:
        lines = [f"# {self.comment}", f"FROM ./{self.model}"]
        if self.template is not None:
            lines.append(f"TEMPLATE {_block(self.template, 'the chat template')}")
        for name, value in self.parameters.items():
            if name == "stop":
                lines += [f"PARAMETER stop {_quoted(stop, 'a stop token')}" for stop in value]
            else:
                lines.append(f"PARAMETER {name} {value:g}" if isinstance(value, float) else f"PARAMETER {name} {value}")
        if self.system:
            lines.append(f"SYSTEM {_block(self.system, 'system_prompt')}")
        if self.license:
            lines.append(f"LICENSE {_block(self.license, 'the licence of the base')}")
        return "\n".join(lines) + "\n"


def _quoted(value: str, what: str) -> str:
    # The grammar has quotes but no escapes.
    if '"' in value or "\n" in value:
        raise ExportError(f"{what} is {value!r}, which a Modelfile cannot express", why="its strings have no escapes")
    return f'"{value}"'


def _block(value: str, what: str) -> str:
    # A triple-quoted block is raw: what stands in it arrives as it is, quotation marks at its end included.
    if ends_a_block(value):
        raise ExportError(
            f'{what} has a line that ends in """, which a Modelfile cannot express',
            why="a block ends at the first line that does, and has no escapes",
            do="break the line elsewhere",
        )
    return f'"""{value}"""'
