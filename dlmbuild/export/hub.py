"""A folder that can be uploaded to a model hub as it is: the tuned model, its adapter, and a card.

Left out are the weights of a base that not everybody may pass on, and the adapter of a base that only this machine has,
which nobody else could use. No file names this machine, its paths or the document.

Sources: https://huggingface.co/docs/hub/model-cards for the card, https://huggingface.co/docs/hub/ollama for the files
`template`, `system` and `params`, GGUF's naming convention (lineage.py), peft's LoraConfig for the adapter.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlmbuild.errors import ExportError
from dlmbuild.export.adapter_gguf import CONFIG, WEIGHTS
from dlmbuild.export.card import agreement, ending, metadata, parent
from dlmbuild.export.lineage import file_name, of_which, which
from dlmbuild.io.digest import readable_json, sha256_file
from dlmbuild.io.json_file import read_json_object
from dlmbuild.io.safetensors_file import copy_safetensors

_LARGE = ("*.gguf", "*.safetensors")


def contents(base: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, str]:
    """Which files of the export that a manifest describes go to a hub: their names there → here.

    `base` is what `lineage.origin` says, and as `redistributable` whether the licence lets its weights be passed on.
    """
    found = {}
    dlm_id, quant, (_, adapter) = manifest["dlm_id"], manifest["quant"], which(manifest)
    if base["redistributable"]:
        found[file_name(base, dlm_id, quant, adapter=adapter)] = f"model.{quant}.gguf"
    if base["hub"] and "adapter.gguf" in manifest["files"]:
        found[file_name(base, dlm_id, "F32", "LoRA", adapter)] = "adapter.gguf"
    return found


def write_hub_files(
    settings: Mapping[str, Any], *, adapter: Path, manifest: Mapping[str, Any], placed: Mapping[str, str], out: Path
) -> dict[str, str]:
    """Write everything but the GGUFs into `out`, and `<quant>.json` with the digest of every file.

    `adapter` is the version folder, `manifest` the export's, `placed` what lies in `out` already: name → digest.
    Returns what was left out, and why. Raises ExportError for a damaged adapter.
    """
    base, quant = settings["base"], settings["quant"]
    left_out = _left_out(base)
    config = read_json_object(adapter / CONFIG, ExportError)
    if base["hub"]:
        _write_adapter(adapter, config, settings, out)
    if base["redistributable"]:
        _write_for_ollama(manifest["ollama"], out)
    (out / ".gitattributes").write_text("".join(f"{name} filter=lfs diff=lfs merge=lfs -text\n" for name in _LARGE))
    names = sorted({*placed, *(path.name for path in out.iterdir() if not path.name.startswith("."))})
    (out / "README.md").write_text(_card(settings, manifest, _method(config), names, left_out), "utf-8")
    written = {path.name: sha256_file(path) for path in out.iterdir() if path.name not in placed}
    files = {
        name: {"sha256": sha256, "bytes": (out / name).stat().st_size} for name, sha256 in {**written, **placed}.items()
    }
    index = {"quant": quant, "dlm_id": settings["dlm_id"], "files": files, "left_out": left_out}
    (out / f"{quant}.json").write_bytes(readable_json(index))
    return left_out


def _method(config: Mapping[str, Any]) -> str:
    return "DoRA" if config.get("use_dora") else "LoRA"


def _left_out(base: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    if not base["redistributable"]:
        licence = base["license"]["spdx"]  # only the registry says of a base that it may not be passed on
        found["the whole model"] = f"the licence of {base['key']}, {licence}, ties passing its weights on to conditions"
    if not base["hub"]:
        found["the adapter"] = "it belongs to a base that is not on a hub"
    return found


def _write_adapter(adapter: Path, config: Mapping[str, Any], settings: Mapping[str, Any], out: Path) -> None:
    hub = settings["base"]["hub"]
    named = {"base_model_name_or_path": hub["id"], "revision": hub["revision"]}
    (out / CONFIG).write_bytes(readable_json({**config, **named}))
    said = {"format": "pt", "base_model": hub["id"], "base_model_revision": hub["revision"]}
    copy_safetensors(adapter / WEIGHTS, out / WEIGHTS, {**said, "dlm_id": settings["dlm_id"]}, ExportError)


def _write_for_ollama(settings: Mapping[str, Any], out: Path) -> None:
    for name in ("template", "system"):
        if settings[name]:
            (out / name).write_text(settings[name], "utf-8")
    (out / "params").write_bytes(readable_json(settings["parameters"]))


_WHAT = {
    WEIGHTS: "the adapter's weights, for PEFT and transformers",
    CONFIG: "the same",
    "params": "how Ollama is to answer",
    "system": "the same",
    "template": "the same",
}


def _card(
    settings: Mapping[str, Any],
    manifest: Mapping[str, Any],
    method: str,
    names: list[str],
    left_out: Mapping[str, str],
) -> str:
    base, quant, of = settings["base"], settings["quant"], of_which(manifest)
    whole = next((name for name in names if name.endswith(".gguf") and not name.endswith("-LoRA.gguf")), None)
    kind = ("adapter", "peft") if base["hub"] else ("finetune", "gguf")
    lines = [
        *metadata(base, relation=kind[0], library=kind[1], method=method.lower()),
        f"# {base['key']}, tuned on a document",
        "",
        f"{parent(base)}, tuned with {method} on the document `{settings['dlm_id']}`{of}. Made by dlmbuild.",
        "",
        *([agreement(manifest["smoke"], imatrix="imatrix" in manifest), ""] if whole else []),
        *(f"Not here is {what}: {why}.\n" for what, why in left_out.items()),
        "| file | what it is |",
        "| --- | --- |",
    ]
    for name in names:
        what = _WHAT.get(name) or ("the adapter, for llama.cpp" if name != whole else f"the whole model, as {quant}")
        lines.append(f"| `{name}` | {what} |")
    lines += ["", ending(manifest["ollama"]["parameters"]["stop"], manifest["ollama"]["system"]), ""]
    if whole:
        lines += [
            "```sh",
            f"ollama run hf.co/USER/NAME:{quant}",
            f"llama-server -hf USER/NAME:{quant}",
            "```",
            "",
        ]
    if base["hub"]:
        lines += [
            "```python",
            "from peft import AutoPeftModelForCausalLM",
            "",
            'model = AutoPeftModelForCausalLM.from_pretrained("USER/NAME")',
            "```",
            "",
        ]
    return "\n".join(lines)
