"""A LoRA adapter as vLLM serves it on a checkpoint: PEFT's own files, a configuration, and a script.

vLLM scales a whole adapter by one lora_alpha / r and passes over rank_pattern and alpha_pattern, so an adapter with
those is written anew with the factors folded into B. Sources: https://docs.vllm.ai/en/latest/features/lora.html and
/configuration/serve_args.html; `PEFTHelper` in vllm/lora/peft_helper.py; MaxLoRARanks in vllm/config/lora.py.
"""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlmbuild.errors import ExportError, Where
from dlmbuild.export.adapter_gguf import CONFIG, WEIGHTS, read_factors, require_base
from dlmbuild.export.conversion import adaptable, write_plain
from dlmbuild.export.runtimes import HERE
from dlmbuild.io.digest import readable_json
from dlmbuild.io.json_file import read_json_object
from dlmbuild.io.progress import Progress, silent

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What --max-lora-rank may be."""
_NAME = "tuned"
"""What a request asks for as `model`."""


def write_adapter(
    adapter: Path,
    checkpoint: Path,
    *,
    files: Mapping[str, str],
    base: str,
    parameters: Mapping[str, Any],
    out: Path,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write adapter_model.safetensors, adapter_config.json, vllm.yaml and serve.sh into the folder `out`.

    `files` are the digests of the checkpoint's files, `base` is the way from the script's folder to the checkpoint,
    `parameters` are those of a Modelfile. Returns {"rank": …}. Raises ExportError as `require_base` and `read_factors`
    do, and for a rank beyond what vLLM takes.
    """
    progress("writing the adapter for vLLM")
    require_base(adapter, files)
    factors = read_factors(adapter, adaptable(checkpoint))
    config = read_json_object(adapter / CONFIG, ExportError)
    rank = max(pair.a.shape[0] for pair in factors.values())
    if rank > _RANKS[-1]:
        where = Where(str(adapter / CONFIG))
        raise ExportError(f"the rank of the adapter is {rank}", where=where, why=f"vLLM takes up to {_RANKS[-1]}")
    if config.get("rank_pattern") or config.get("alpha_pattern"):
        write_plain(out, factors, float(config["lora_alpha"]), config)
    else:
        shutil.copyfile(adapter / WEIGHTS, out / WEIGHTS)
        (out / CONFIG).write_bytes(readable_json(config))
    settings = {
        "enable-lora": True,
        "host": "127.0.0.1",
        "max-lora-rank": next(allowed for allowed in _RANKS if allowed >= rank),
        "max-model-len": parameters["num_ctx"],
        "port": 8000,
        "seed": parameters["seed"],
        "served-model-name": "base",
    }
    lines = [f"{name}: {json.dumps(value)}\n" for name, value in settings.items()]
    (out / "vllm.yaml").write_text("# Options of vllm serve: `base` answers without the adapter\n" + "".join(lines))
    (out / "serve.sh").write_text(_script(base, parameters))
    return {"rank": rank}


def _script(base: str, parameters: Mapping[str, Any]) -> str:
    sampling = {"temperature": parameters["temperature"], "top_p": parameters.get("top_p", 1.0)}
    return f"""#!/bin/sh
# Serve this adapter on its base with vLLM, to this machine alone: sh serve.sh [OPTION …]
# It answers as OpenAI's API does at http://127.0.0.1:8000/v1; the model is called {_NAME}. On another machine, where
# the base is elsewhere: BASE=/its/folder sh serve.sh
{HERE}exec vllm serve "${{BASE:-$here/{base}}}" --config "$here/vllm.yaml" --lora-modules "{_NAME}=$here" \\
    --override-generation-config {shlex.quote(json.dumps(sampling))} "$@"
"""
