"""The Modelfile, as current Ollama accepts it (grammar: https://docs.ollama.com/modelfile).

One merged GGUF and no ADAPTER, which Ollama refuses since 0.34.1. TEMPLATE is left out where templates.py finds none:
from 0.30 on Ollama then renders the template inside the GGUF, and that is the one the model was trained with.

Where tokens are drawn, what Ollama would cut off by itself (top_k 40, top_p 0.9) is written, too: 0 is all for top_k.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dlmbuild.doc.prompt import ends_a_block
from dlmbuild.errors import ExportError


@dataclass(frozen=True, slots=True)
class Modelfile:
    """What a Modelfile says. `text` depends on nothing else: no clock, no path."""

    model: str
    """File name of the GGUF beside the Modelfile."""
    comment: str
    stops: Sequence[str]
    temperature: float
    top_p: float | None
    context: int
    """Tokens of context that the runtime sets aside."""
    seed: int
    system: str | None
    license: str
    template: str | None = None
    """In Go's language; see templates.py."""

    @property
    def parameters(self) -> dict[str, Any]:
        """What it sets, as the API takes it."""
        found: dict[str, Any] = {"stop": list(self.stops), "temperature": self.temperature}
        if self.temperature > 0:
            found |= {"top_p": 1.0 if self.top_p is None else self.top_p, "top_k": 0, "min_p": 0.0}
        elif self.top_p is not None:
            found["top_p"] = self.top_p
        return {**found, "num_ctx": self.context, "seed": self.seed}

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
