"""The model card of an export: README.md with the metadata that hubs read (https://huggingface.co/docs/hub/model-cards).

What is not known is left out, the language for example. The document's text and name are not in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_HUB_LICENCES = {
    "Apache-2.0": "apache-2.0",
    "MIT": "mit",
    "BSD-3-Clause": "bsd-3-clause",
    "CC-BY-4.0": "cc-by-4.0",
    "CC-BY-SA-4.0": "cc-by-sa-4.0",
}
"""SPDX → the hub's identifier. Any other licence is `other`, with its name and where it is written."""


def model_card(
    dlm_id: str,
    quant: str,
    base: Mapping[str, Any],
    smoke: Mapping[str, Any],
    stops: Sequence[str],
    system: str | None,
    of: str = "",
    *,
    method: str,
    parts: bool,
    imatrix: bool = False,
) -> str:
    """The text of the card. `of` says which of the document's adapters it is: ", adapter tone", or nothing.

    `base` and `smoke` are those of the export's manifest, `method` is LoRA or DoRA. `parts` says whether base and
    adapter lie beside the whole model, `imatrix` whether an importance matrix decided how it is rounded.
    """
    halves = "the same in two parts" + imatrix * ", without importance matrix"
    return "\n".join(
        [
            *metadata(base, relation="finetune", library="gguf", method=method.lower()),
            f"# {base['key']}, tuned on a document",
            "",
            f"{parent(base)}, tuned with {method} on the document `{dlm_id}`{of}, as {quant}. Made by dlmbuild.",
            "",
            agreement(smoke, imatrix=imatrix),
            "",
            "| file | what it is |",
            "| --- | --- |",
            f"| `model.{quant}.gguf` | the whole model |",
            *([f"| `base.{quant}.gguf`, `adapter.gguf` | {halves} |"] if parts else []),
            "| `Modelfile` | for Ollama |",
            "| `llama-server.sh` | starts llama.cpp's server |",
            "| `export_manifest.json` | the digest of each file, and what it was made from |",
            "",
            ending(stops, system),
            "",
            "```sh",
            "sh llama-server.sh",
            *(["sh llama-server.sh --base-and-adapter"] if parts else []),
            "ollama create NAME -f Modelfile && ollama run NAME",
            "```",
            "",
        ]
    )


def metadata(base: Mapping[str, Any], *, relation: str, library: str, method: str) -> list[str]:
    """The lines of a card's metadata block; `relation` is what the model is to its base."""
    found, hub = base["license"] or {}, base["hub"]
    known: dict[str, Any] = {}
    if hub:  # a folder of this machine is nothing that a hub could link
        known |= {"base_model": hub["id"], "base_model_relation": relation}
    known |= {"library_name": library, "pipeline_tag": "text-generation"}
    spdx = found.get("spdx")
    if spdx in _HUB_LICENCES:
        known["license"] = _HUB_LICENCES[spdx]
    elif spdx or found.get("url"):
        known["license"] = "other"
        known |= {"license_name": spdx.removeprefix("LicenseRef-").lower()} if spdx else {}
        known |= {"license_link": found["url"]} if found.get("url") else {}
    known["tags"] = ["gguf", method, "dlmbuild"]
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in known.items()]
    return ["---", *lines, "---", ""]


def parent(base: Mapping[str, Any]) -> str:
    """What was tuned, in words."""
    hub = base["hub"]
    if hub is None:
        return str(base["key"])
    rounded = f" (its copy {base['revision']}, whose weights are rounded)" if hub["rounded"] else ""
    return f"{hub['id']} at revision `{hub['revision']}`{rounded}"


def agreement(smoke: Mapping[str, Any], *, imatrix: bool) -> str:
    """How near the merged file is to what was trained, and whether an importance matrix decided how it is rounded."""
    told = (
        f"At {smoke['agreeing']} of {smoke['positions']} compared positions the merged file chooses the token of the"
        f" trained model. The KL divergence from its next token is at least {smoke['kl']['mean']:.4f} nats on average,"
        " counted over the likeliest tokens of both and one that stands for all others."
    )
    if perplexity := smoke.get("perplexity"):
        told += (
            f" On {perplexity['tokens']} tokens that it was trained on the perplexity is {perplexity['file']:.2f}, that"
            f" of the trained model {perplexity['trained']:.2f}."
        )
    if imatrix:
        told += " Its weights are rounded by an importance matrix of the text it learned."
    return told


def ending(stops: Sequence[str], system: str | None) -> str:
    """What a runtime has to know that a file alone does not tell."""
    prompt = "It was trained with this system prompt:\n\n" + _quoted(system) if system else (
        "It was trained without a system prompt of its own."
    )  # fmt: skip
    return f"An answer ends with {' or '.join(f'`{stop}`' for stop in stops)}. {prompt}"


def _quoted(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())
