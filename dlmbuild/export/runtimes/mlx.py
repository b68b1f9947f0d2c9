"""A LoRA adapter as mlx_lm loads it beside a checkpoint, on Apple's machines.

mlx_lm has one rank and one scale for all pairs, stores both factors transposed, and adds scale · (x @ a) @ b. Pairs of
a smaller rank are filled up with zeros, and what PEFT scales otherwise is folded into b. Sources: `LoRALinear` in
mlx_lm/tuner/lora.py; `load_adapters` and `linear_to_lora_layers` in mlx_lm/tuner/utils.py; mlx_lm/LORA.md and the
options of mlx_lm/server.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlmbuild.errors import ExportError, Where
from dlmbuild.export.adapter_gguf import CONFIG, lora_factors, require_base
from dlmbuild.export.base_gguf import read_model
from dlmbuild.export.runtimes import HERE
from dlmbuild.io.digest import readable_json
from dlmbuild.io.json_file import read_json_object
from dlmbuild.io.progress import Progress, silent
from dlmbuild.io.safetensors_file import write_arrays

_MODULE = re.compile(r"model\.layers\.(\d+)\.(.+)\.weight")
_SAME_NAMES = ("llama", "mistral", "smollm3", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text", "olmo2")
"""Values of model_type whose linear layers mlx_lm calls as transformers does."""


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
    """Write adapters.safetensors, adapter_config.json and serve.sh into the folder `out`.

    `files` are the digests of the checkpoint's files, `base` is the way from the script's folder to the checkpoint,
    `parameters` are those of a Modelfile. Returns {"rank": …, "scale": …}. Raises ExportError for an architecture whose
    names in mlx_lm are not known here, and as `require_base` and `read_factors` do.
    """
    import numpy as np

    progress("writing the adapter for MLX")
    require_base(adapter, files)
    config = read_json_object(checkpoint / "config.json", ExportError)
    if config.get("model_type") not in _SAME_NAMES:
        raise ExportError(
            f"an adapter of a {config.get('model_type')!r} model is not written for MLX",
            where=Where(str(checkpoint / "config.json")),
            why="what mlx_lm calls its modules is not known here",
            do="serve the merged model with llama.cpp: dlm serve",
        )
    model = read_model(checkpoint)
    factors = lora_factors(adapter, model)
    rank = max(pair.a.shape[0] for pair in factors.values())
    scale = next(iter(factors.values())).scale
    arrays, layers, keys = {}, set(), set()
    for weight, pair in factors.items():
        found = _MODULE.fullmatch(weight)
        if found is None:
            raise ExportError(
                f"the adapter changes {weight}", where=Where(str(adapter / CONFIG)), why="it is in no layer"
            )
        layers.add(int(found[1]))
        keys.add(found[2])
        missing = (0, rank - pair.a.shape[0])
        b = pair.b * np.float32(pair.scale / scale)
        name = weight.removesuffix(".weight")
        arrays[f"{name}.lora_a"] = np.pad(pair.a.T, ((0, 0), missing))
        arrays[f"{name}.lora_b"] = np.pad(b.T, (missing, (0, 0)))
    write_arrays(out / "adapters.safetensors", arrays)
    settings = {
        "fine_tune_type": "lora",
        "num_layers": model.layers - min(layers),  # counted from the last one
        "lora_parameters": {"rank": rank, "scale": scale, "dropout": 0.0, "keys": sorted(keys)},
    }
    (out / "adapter_config.json").write_bytes(readable_json(settings))
    (out / "serve.sh").write_text(_script(base, parameters))
    return {"rank": rank, "scale": scale}


def _script(base: str, parameters: Mapping[str, Any]) -> str:
    return f"""#!/bin/sh
# Serve this adapter on its base with mlx_lm, to this machine alone: sh serve.sh [OPTION …]
# It answers as OpenAI's API does at http://127.0.0.1:8080/v1. On another machine, where the base is elsewhere:
# BASE=/its/folder sh serve.sh
{HERE}exec mlx_lm.server --model "${{BASE:-$here/{base}}}" --adapter-path "$here" --host 127.0.0.1 --port 8080 \\
    --temp {parameters["temperature"]:g} --top-p {parameters.get("top_p", 1.0):g} "$@"
"""
