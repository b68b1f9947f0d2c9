"""llama.cpp as xllamacpp carries it, through its public interface only.

Its native code ends a process on some bad files, so everything here runs in a job process of its own. It listens on a
port of the loopback interface while it lives.
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlmbuild.errors import SmokeError


class LlamaCpp:
    """One loaded GGUF, with an optional LoRA GGUF on top."""

    def __init__(self, model: Path, *, lora: Path | None = None, context: int = 4096) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(model)
        params.n_ctx = context
        params.n_parallel = 1
        params.n_gpu_layers = 0
        params.warmup = False
        params.ui = False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(os.environ.get("OMP_NUM_THREADS", "1"))
        if lora is not None:
            adapter = xllamacpp.CommonAdapterLoraInfo()
            adapter.path = str(lora)
            adapter.scale = 1.0
            params.lora_adapters = [adapter]
        try:
            self._server = xllamacpp.Server(params)
        except Exception as error:
            raise SmokeError(f"llama.cpp does not load {model.name}", why=str(error)) from None

    def tokenize(self, text: str) -> list[int]:
        """Ids of a text in which special tokens are written out; none are added."""
        return list(self._post("/tokenize", {"content": text, "parse_special": True, "add_special": False})["tokens"])

    def apply_template(self, messages: Sequence[dict[str, str]]) -> str:
        """The conversation as llama.cpp renders it with the template inside the GGUF, up to the answer."""
        return str(self._post("/apply-template", {"messages": list(messages)})["prompt"])

    def next_token(self, ids: Sequence[int], *, candidates: int) -> tuple[int, dict[int, float]]:
        """The likeliest next token, and the likeliest `candidates` with the natural log of their probabilities.

        The second is empty where the token is a part of a character: the server shows no probabilities then.
        """
        asked = {"n_predict": 1, "temperature": 0, "n_probs": candidates, "return_tokens": True, "cache_prompt": True}
        reply = self._post("/completion", {"prompt": list(ids), **asked})
        shown = (reply.get("completion_probabilities") or [{"top_logprobs": []}])[0]["top_logprobs"]
        return int(reply["tokens"][0]), {int(c["id"]): float(c["logprob"]) for c in shown}

    def chat(
        self, messages: Sequence[dict[str, str]], *, max_tokens: int, temperature: float, seed: int, top_p: float = 1.0
    ) -> tuple[str, bool]:
        """The answer to a conversation, and whether it ended by itself rather than at `max_tokens`."""
        reply = self._server.handle_chat_completions(
            {
                "messages": list(messages),
                "max_tokens": max_tokens,
                "temperature": temperature,
                "top_p": top_p,
                "seed": seed,
                "cache_prompt": False,
            }
        )
        if "choices" not in reply:
            raise SmokeError("llama.cpp answered with an error", why=str(reply.get("error", reply))[:500])
        choice = reply["choices"][0]
        return str(choice["message"]["content"] or ""), choice["finish_reason"] == "stop"

    def _post(self, path: str, data: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            self._server.listening_address + path,
            data=json.dumps(data).encode(),
            headers={"Content-Type": "application/json"},
        )
        # Loopback never goes through a proxy, whatever the environment says.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=600) as reply:
            return dict(json.loads(reply.read()))
