"""The small files of an export: the Modelfile, and export_manifest.json with the digest of everything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlmbuild.data.template import ChatTemplate
from dlmbuild.export.card import model_card
from dlmbuild.export.lineage import of_which, title_of
from dlmbuild.export.ollama.modelfile import DRAWN, modelfile
from dlmbuild.export.ollama.templates import go_template
from dlmbuild.export.runtimes import llama_server
from dlmbuild.io.digest import readable_json, sha256_file
from dlmbuild.lock.capture import EXPORT_PINS, pins

LEAST_CONTEXT = 4096
"""Tokens: what Ollama sets aside by default on a small machine."""
SEED = 42


def runtime_parameters(export: Mapping[str, Any], longest_row: int, context_length: int) -> dict[str, Any]:
    """What every runtime is told besides the model; the Modelfile has the tokens to stop at, too."""
    top_p = {"top_p": export["default_top_p"]} if export["default_top_p"] is not None else {}
    context = min(max(LEAST_CONTEXT, 2 * longest_row), context_length)
    return {"temperature": export["default_temperature"] or 0.0, **top_p, "num_ctx": context, "seed": SEED}


def export_files(
    settings: Mapping[str, Any],
    *,
    adapter: Mapping[str, Any],
    checkpoint: Path,
    digests: Mapping[str, str],
    parity: Mapping[str, Any],
    smoke: Mapping[str, Any],
    adds_bos: bool,
    out: Path,
) -> None:
    """Write Modelfile, llama-server.sh, README.md (the model card) and export_manifest.json into `out`.

    The GGUFs named by `digests` lie there already. `adds_bos` says whether a runtime puts the token that begins a text
    in front by itself, as the GGUFs ask for.
    """
    base, quant = settings["base"], settings["quant"]
    template = ChatTemplate.from_base(checkpoint)
    license = base["license"] or {}
    stops = list(dict.fromkeys((template.turn_end, template.special_tokens["eos_token"])))
    wanted = runtime_parameters(settings["export"], settings["longest_row"], base["context_length"])
    trained = settings.get("trained", {})
    of = of_which(settings)
    drawn = {"temperature": wanted["temperature"], **(DRAWN if wanted["temperature"] > 0 else {})}
    ollama = {
        "template": go_template(template, adds_bos=adds_bos),
        "system": settings["system_prompt"],
        "license": " ".join(filter(None, (license.get("spdx"), license.get("url")))),
        "parameters": {"stop": stops, **drawn, **wanted},
    }
    comment = f"{settings['dlm_id']}{of} on {base['key']}, {quant}. Load with: ollama create <name> -f Modelfile"
    (out / "Modelfile").write_text(modelfile(f"model.{quant}.gguf", comment, ollama), "utf-8")
    parts, weighed = "adapter.gguf" in digests, bool(settings.get("imatrix"))
    alias = title_of(settings)
    script = llama_server.launch_script(quant, alias, ollama["parameters"], in_parts=parts, draft=settings["draft"])
    (out / llama_server.NAME).write_text(script, "utf-8")
    said = {"method": settings.get("method", "LoRA"), "parts": parts, "imatrix": weighed}
    card = model_card(settings["dlm_id"], quant, base, smoke, stops, settings["system_prompt"], of, **said)
    (out / "README.md").write_text(card, "utf-8")
    files = {**digests, **{name: sha256_file(out / name) for name in ("Modelfile", "README.md", llama_server.NAME)}}
    manifest = {
        "dlm_id": settings["dlm_id"],
        "quant": quant,
        "target": "ollama",
        "merged": True,
        **({"trained": dict(trained)} if trained else {}),
        **({"imatrix": "rows of the document"} if settings.get("imatrix") else {}),
        "ollama": ollama,
        "base": {name: base[name] for name in ("key", "revision", "source", "license", "hub")},
        "adapter": dict(adapter["files"]),
        "files": {name: {"sha256": sha, "bytes": (out / name).stat().st_size} for name, sha in files.items()},
        "pins": pins(EXPORT_PINS),
        "parity": dict(parity),
        "smoke": dict(smoke),
    }
    (out / "export_manifest.json").write_bytes(readable_json(manifest))
