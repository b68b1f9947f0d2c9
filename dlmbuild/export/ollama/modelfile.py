"""The Modelfile, as current Ollama accepts it (grammar: https://docs.ollama.com/modelfile).

One merged GGUF and no ADAPTER, which Ollama refuses since 0.34.1. TEMPLATE is left out where templates.py finds none:
from 0.30 on Ollama then renders the template inside the GGUF, and that is the one the model was trained with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlmbuild.doc.prompt import ends_a_block
from dlmbuild.errors import ExportError
from dlmbuild.inference.llama_cpp import UNCUT

DRAWN: Mapping[str, float] = {"top_p": 1.0, **UNCUT}
"""What Ollama is told where tokens are drawn, or it would cut some off by itself: for top_k, 0 is all."""


def modelfile(model: str, comment: str, settings: Mapping[str, Any]) -> str:
    """The text for the GGUF `model` beside it; `settings` are what Ollama's API takes when a model is created.

    `parameters`, `system`, `license` and `template`, which is in Go's language: see templates.py.
    """
    lines = [f"# {comment}", f"FROM ./{model}"]
    if settings["template"] is not None:
        lines.append(f"TEMPLATE {_block(settings['template'], 'the chat template')}")
    for name, value in settings["parameters"].items():
        if name == "stop":
            lines += [f"PARAMETER stop {_quoted(stop, 'a stop token')}" for stop in value]
        else:
            lines.append(f"PARAMETER {name} {value:g}" if isinstance(value, float) else f"PARAMETER {name} {value}")
    if settings["system"]:
        lines.append(f"SYSTEM {_block(settings['system'], 'system_prompt')}")
    if settings["license"]:
        lines.append(f"LICENSE {_block(settings['license'], 'the licence of the base')}")
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
