"""Where a model comes from, as its files say it: GGUF's `general.*` keys and the names of files on a hub.

Both as https://github.com/ggml-org/ggml/blob/master/docs/gguf.md has them. A document's text and name are in none of
it: what is made from it bears its identity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from dlmbuild.base_models.reference import Reference
from dlmbuild.io.gguf_file import entry

HUB = "https://huggingface.co/"
VERSION = "v1.0"
"""Of what is made from a document: how often it was trained before is nothing that its bytes may depend on."""

_SIZE = re.compile(r"(?:\d+x)?\d+(?:\.\d+)?[KMBTQkmbtq]")
_VERSION = re.compile(r"v\d+(?:\.\d+)*")
_UNITS = ((10**12, "T"), (10**9, "B"), (10**6, "M"), (0, "K"))


class Name(NamedTuple):
    """The parts of a model's name."""

    base: str
    size: str
    finetune: str
    version: str


def origin(facts: Mapping[str, Any], reference: Reference) -> dict[str, Any]:
    """What base.json says of where a base comes from, and as `hub` its id and commit there; None for none.

    The package of a registry row holds a copy of the hub's model with rounded weights: `rounded` says so.
    """
    source, hub = facts["source"], None
    if source["kind"] == "hub":
        hub = {"id": source["id"], "revision": source["revision"], "rounded": False}
    elif reference.kind == "package" and (known := reference.known):
        hub = {"id": known.id, "revision": known.revision, "rounded": True}
    said = ("key", "revision", "source", "license", "parameters", "architecture")
    return {**{field: facts[field] for field in said}, "hub": hub}


def title(key: str, dlm_id: str, adapter: str = "") -> str:
    """What a model made of the base `key` by a document is called; `adapter` says by which of its adapters."""
    return "-".join(filter(None, (key, dlm_id, adapter)))


def name_of(base: Mapping[str, Any]) -> Name:
    """The parts of the name of a base, as `origin` gives it.

    The size is the one that its makers write into its name, or else counted. (The gguf package takes the "mini" of
    Phi-3.5-mini for a size.)
    """
    hub = base["hub"]
    if hub is None:
        return Name(str(base["architecture"]).removesuffix("ForCausalLM"), counted(base["parameters"]), "", "")
    parts = str(hub["id"]).partition("/")[2].split("-")
    versions = [part for part in parts if _VERSION.fullmatch(part)]
    parts = [part for part in parts if part not in versions]
    sizes = [at for at, part in enumerate(parts) if at and _SIZE.fullmatch(part)]
    if not sizes:
        return Name("-".join(parts), counted(base["parameters"]), "", "".join(versions[:1]))
    before, size, behind = parts[: sizes[0]], parts[sizes[0]], parts[sizes[0] + 1 :]
    return Name("-".join(before), size[:-1] + size[-1].upper(), "-".join(behind), "".join(versions[:1]))


def counted(parameters: int) -> str:
    """A number of parameters with two digits or more: `135M`, `3.8B`."""
    unit, letter = next((unit, letter) for unit, letter in _UNITS if parameters > unit)
    scaled = parameters / (unit or 1000)
    return f"{scaled:.{1 if round(scaled) < 10 else 0}f}{letter}"


def which(export: Mapping[str, Any]) -> tuple[str, str]:
    """Of a document that names adapters which one an export is of, as its settings and its manifest say.

    ("adapter" or "mix", its name); both are empty for another document.
    """
    trained = export.get("trained", {})
    return next(((kind, trained[kind]) for kind in ("adapter", "mix") if kind in trained), ("", ""))


def of_which(export: Mapping[str, Any]) -> str:
    """`which`, behind what a text says of the document."""
    return f", {' '.join(which(export))}" if all(which(export)) else ""


def title_of(export: Mapping[str, Any]) -> str:
    """The title of what an export holds, by its settings or its manifest."""
    return title(export["base"]["key"], export["dlm_id"], which(export)[1])


def file_name(base: Mapping[str, Any], dlm_id: str, encoding: str, kind: str = "", adapter: str = "") -> str:
    """The name of a GGUF made of `base` by a document, by GGUF's convention; `kind` is `LoRA` for an adapter.

    `adapter` says which of the document's adapters or mixes it is. The convention has no `_` in that part of a name.
    """
    name = name_of(base)
    parts = (name.base, name.size, name.finetune, dlm_id, adapter.replace("_", "-"), VERSION, encoding, kind)
    return "-".join(filter(None, parts)) + ".gguf"


def general(base: Mapping[str, Any], dlm_id: str = "") -> dict[str, str | int]:
    """The keys, but general.name, of the GGUF of a base, or, with `dlm_id`, of what a document made of it."""
    name, hub, license = name_of(base), base["hub"], base["license"] or {}
    keys: dict[str, str | int] = {"general.basename": name.base, "general.size_label": name.size}
    if finetune := "-".join(filter(None, (name.finetune, dlm_id))):
        keys["general.finetune"] = finetune
    if version := VERSION if dlm_id else name.version:
        keys["general.version"] = version
    if license.get("spdx"):
        keys["general.license"] = license["spdx"]
    if license.get("url"):
        keys["general.license.link"] = license["url"]
    if dlm_id:
        parent = "general.base_model.0"
        keys["general.base_model.count"] = 1
        keys |= {f"{parent}.name": base["source"].get("id") or base["key"], f"{parent}.version": base["revision"]}
        if hub:
            keys[f"{parent}.organization"] = hub["id"].partition("/")[0]
            keys[f"{parent}.repo_url"] = HUB + hub["id"]
    elif hub:
        keys[f"general.{'source.' if hub['rounded'] else ''}repo_url"] = HUB + hub["id"]
    return keys


def general_entries(keys: Mapping[str, str | int]) -> list[bytes]:
    """The keys as they stand in a file."""
    return [entry(key, value) for key, value in sorted(keys.items())]
