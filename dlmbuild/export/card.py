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
) -> str:
    """The text of the card. `base` and `smoke` are those of the export's manifest."""
    source, found = base["source"], base["license"] or {}
    metadata: dict[str, Any] = {}
    if "id" in source:  # a folder of this machine is nothing that a hub could link
        metadata |= {"base_model": source["id"], "base_model_relation": "finetune"}
    metadata |= {"library_name": "gguf", "pipeline_tag": "text-generation"}
    spdx = found.get("spdx")
    if spdx in _HUB_LICENCES:
        metadata["license"] = _HUB_LICENCES[spdx]
    elif spdx or found.get("url"):
        metadata["license"] = "other"
        metadata |= {"license_name": spdx.removeprefix("LicenseRef-").lower()} if spdx else {}
        metadata |= {"license_link": found["url"]} if found.get("url") else {}
    metadata["tags"] = ["gguf", "lora", "dlmbuild"]
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in metadata.items()]
    name = source.get("id") or base["key"]
    revision = f" at revision `{base['revision']}`" if "id" in source else ""
    agreement = f"{smoke['agreeing']} of {smoke['positions']}" if "agreeing" in smoke else f"{smoke['agreement']:.1%}"
    prompt = "It was trained with this system prompt:\n\n" + _quoted(system) if system else (
        "It was trained without a system prompt of its own."
    )  # fmt: skip
    return "\n".join(
        [
            "---",
            *lines,
            "---",
            "",
            f"# {base['key']}, tuned on a document",
            "",
            f"{name}{revision}, tuned with LoRA on the document `{dlm_id}`, as {quant}. Made by dlmbuild.",
            "",
            f"At {agreement} compared positions the merged file chooses the token of the trained model.",
            "",
            "| file | what it is |",
            "| --- | --- |",
            f"| `model.{quant}.gguf` | the whole model |",
            f"| `base.{quant}.gguf`, `adapter.gguf` | the same in two parts |",
            "| `Modelfile` | for Ollama |",
            "| `export_manifest.json` | the digest of each file, and what it was made from |",
            "",
            f"An answer ends with {' or '.join(f'`{stop}`' for stop in stops)}. {prompt}",
            "",
            "```sh",
            f"llama-server -m model.{quant}.gguf",
            f"llama-server -m base.{quant}.gguf --lora adapter.gguf",
            "ollama create NAME -f Modelfile && ollama run NAME",
            "```",
            "",
        ]
    )


def _quoted(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())
