"""A script that starts llama.cpp's server with an export.

Options: tools/server/README.md and common/arg.cpp of llama.cpp. They say what `inference.llama_cpp.start_server` says
to the server inside xllamacpp, so that both answer alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlmbuild.export.runtimes import HERE

NAME = "llama-server.sh"


def launch_script(quant: str, alias: str, parameters: Mapping[str, Any], *, in_parts: bool, draft: str = "") -> str:
    """The script for the folder of an export; `parameters` are those of its Modelfile.

    `in_parts` says whether base and adapter are in the folder, too. `alias` has no characters that mean something to a
    shell. `draft` is the way from that folder to the one of a smaller base, "" for none: where its GGUF has been built,
    it guesses the next tokens, which changes how fast an answer comes and not what it says. (llama.cpp says so in its
    log, and does without, where the two have other tokens. With no --spec-type it loads a draft and never asks it.)
    """
    parts = f"""if [ "${{1-}}" = --base-and-adapter ]; then
    shift
    set -- --model "$here/base.{quant}.gguf" --lora "$here/adapter.gguf" "$@"
else
    set -- --model "$here/model.{quant}.gguf" "$@"
fi
"""
    model = parts if in_parts else f'set -- --model "$here/model.{quant}.gguf" "$@"\n'
    usage = f"{NAME} {'[--base-and-adapter] ' if in_parts else ''}[OPTION …]"
    return f"""#!/bin/sh
# Serve this model with llama.cpp, to this machine alone: sh {usage}
# It answers as OpenAI's API does at http://127.0.0.1:8080/v1. Options go on to llama-server; of one that is given twice
# the last counts: --port 8081
{HERE}{model}{_drafted(draft) if draft else ""}exec llama-server --host 127.0.0.1 --port 8080 --alias {alias} \\
    --ctx-size {parameters["num_ctx"]} --parallel 1 --jinja --swa-full --no-slots \\
    --temp {parameters["temperature"]:g} --top-p {parameters.get("top_p", 1.0):g} --top-k 0 --min-p 0 \\
    --seed {parameters["seed"]} "$@"
"""


def _drafted(draft: str) -> str:
    return f"""for quant in Q8_0 Q4_K_M F16; do
    small="$here/{draft}/base.$quant.gguf"
    if [ -f "$small" ]; then
        set -- --spec-type draft-simple --spec-draft-model "$small" "$@"
        break
    fi
done
"""
