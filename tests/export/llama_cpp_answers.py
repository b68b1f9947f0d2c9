"""Run as a process, since bad files end it: what llama.cpp says of GGUF files. Input and last line of output are JSON.

Input: {"model": path, "lora": path or null, "texts": […], "prompts": [[ids], …]}, where each prompt begins the last
one; output: {"tokens": [[ids], …], "next": [[[id, log-probability], …], …]} with 20 candidates for each prompt, best
first, as the library says it, and "server" with the same two as the server says it, which has no candidates where the
best is a part of a character.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

import xllamacpp

from dlmbuild.data.control import Piece
from dlmbuild.inference.libllama import LibLlama


def main() -> None:
    asked = json.loads(sys.stdin.read())
    params = xllamacpp.CommonParams()
    params.model.path = asked["model"]
    params.n_ctx = 1024
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.warmup = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    if asked["lora"]:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path, adapter.scale = asked["lora"], 1.0
        params.lora_adapters = [adapter]
    server = xllamacpp.Server(params)

    def tokens(text: str) -> list[int]:
        body = json.dumps({"content": text, "parse_special": True, "add_special": False}).encode()
        request = urllib.request.Request(
            server.listening_address + "/tokenize", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            return list(json.load(reply)["tokens"])

    def following(ids: list[int]) -> list[tuple[int, float]]:
        settings = {"n_predict": 1, "temperature": 0, "n_probs": 20, "cache_prompt": False}
        reply = server.handle_completions({"prompt": ids, **settings})
        shown = reply["choices"][0]["logprobs"]  # None where the best token is a part of a character
        return [(one["id"], one["logprob"]) for one in shown["content"][0]["top_logprobs"]] if shown else []

    found = {"tokens": [tokens(text) for text in asked["texts"]], "next": [following(ids) for ids in asked["prompts"]]}
    print("\n" + json.dumps({**of_the_library(**asked), "server": found}), flush=True)


def of_the_library(model: str, lora: str | None, texts: list[str], prompts: list[list[int]]) -> dict[str, Any]:
    whole, first = prompts[-1], len(prompts[0])
    library = LibLlama(Path(model), lora=Path(lora) if lora else None, longest=len(whole))
    logs = [dict(enumerate(some.tolist())) for some in library.next_tokens(whole, first)]
    best = [sorted(logs[len(ids) - first].items(), key=lambda one: -one[1])[:20] for ids in prompts]
    return {"tokens": [library.tokenize([Piece(text, True)]) for text in texts], "next": best}


if __name__ == "__main__":
    main()
