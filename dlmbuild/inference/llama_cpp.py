"""llama.cpp as xllamacpp carries it, through its public interface only.

Its native code ends a process on some bad files, so everything here runs in a job process of its own. It listens on a
port of the loopback interface while it lives.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from http import HTTPStatus
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from dlmbuild.data.control import ControlTokens, Piece
from dlmbuild.errors import SmokeError
from dlmbuild.inference.numbers import no_numbers
from dlmbuild.io.gguf_file import read_header

_BYTES_OF_A_THREAD = 512 << 20
"""Weights that keep a thread busy for one token: with less each, threads that sleep while they wait for one another
take longer than one alone. Measured with 135 million parameters, F16 and a LoRA: 35 s with two, 14 s with one."""
CONTEXT = 4096
"""Tokens that a server reads at once, if nothing more is asked of it."""
_PATIENCE = 600
"""Seconds that an answer may take."""
UNCUT: Mapping[str, float] = {"top_k": 0, "min_p": 0.0}
"""llama.cpp takes the likeliest 40 tokens, and of these none 20 times less likely than the first, unless it is told
not to. The document's temperature and top_p are all that the trained model is sampled with."""
_CONTROL = (2, 3)
"""Token types (LLAMA_TOKEN_TYPE_UNKNOWN and _CONTROL) that llama.cpp finds in a text only where it is told to."""


def start_server(
    model: Path,
    *,
    lora: Path | None = None,
    context: int = CONTEXT,
    address: tuple[str, int] | None = None,
    sampling: Mapping[str, float] = MappingProxyType({}),
    alias: str = "",
) -> Any:
    """llama.cpp's server with a model loaded, at `address` (host, port) or a free port of the loopback interface.

    It says to be `alias`, or the model's path. Raises SmokeError for a file that it does not load.
    """
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx = context
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.warmup = False
    params.ui = False
    if address is not None:
        params.hostnames, params.port = [address[0]], address[1]
        params.endpoint_slots = False  # shows one person's question to the next
    if alias:
        params.model_alias = {alias}
    if sampling:
        params.sampling.temp = sampling["temperature"]
        params.sampling.top_p = sampling["top_p"]
        params.sampling.seed = int(sampling["seed"])
        params.sampling.top_k, params.sampling.min_p = UNCUT["top_k"], UNCUT["min_p"]
    # With a cache as small as a sliding window, what is kept between questions comes back wrong (Gemma, OLMo 3).
    params.swa_full = True
    params.cpuparams_batch.n_threads = cores = int(os.environ.get("OMP_NUM_THREADS", "1"))
    params.cpuparams.n_threads = min(cores, max(1, model.stat().st_size // _BYTES_OF_A_THREAD))
    if lora is not None:
        adapter = xllamacpp.CommonAdapterLoraInfo()
        adapter.path = str(lora)
        adapter.scale = 1.0
        params.lora_adapters = [adapter]
    try:
        return xllamacpp.Server(params)
    except Exception as error:
        raise SmokeError(
            f"llama.cpp does not load {model.name}",
            why=str(error),
            do="look into the log beside the store's other files, or export another quantisation",
        ) from None


class LlamaCpp:
    """One loaded GGUF, with an optional LoRA GGUF on top."""

    def __init__(self, model: Path, *, lora: Path | None = None, context: int = CONTEXT) -> None:
        self._model = model
        self._server = start_server(model, lora=lora, context=context)
        self._connection = HTTPConnection(urlsplit(self._server.listening_address).netloc, timeout=_PATIENCE)

    @property
    def reads(self) -> int:
        """How many tokens the model reads at once, its answer included, as the file says it."""
        return int(self._metadata[f"{self._metadata['general.architecture']}.context_length"])

    def tokenize(self, pieces: Iterable[Piece]) -> list[int]:
        """Ids of a rendered conversation, none added."""
        ids: list[int] = []
        for piece in pieces:
            asked = {"content": piece.text, "parse_special": piece.control, "add_special": False}
            ids += self._post("/tokenize", asked)["tokens"]
        return ids

    def question(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Ids of a conversation as the template inside the GGUF renders it, up to the answer."""
        mark = self._control.mark([message["content"] for message in messages])
        hidden = [{**message, "content": self._control.hide(message["content"], mark)} for message in messages]
        rendered = str(self._post("/apply-template", {"messages": hidden})["prompt"])
        ids = self.tokenize(self._control.pieces(rendered, mark))
        # Where the vocabulary asks for a token in front of every text, the server leaves it out of what it renders.
        first = self._metadata.get("tokenizer.ggml.bos_token_id")
        if self._metadata.get("tokenizer.ggml.add_bos_token") and first is not None and ids[:1] != [first]:
            ids.insert(0, first)
        return ids

    def as_sent(self, rendered: str) -> tuple[str, list[int]]:
        """A text as it is sent to a server that adds what begins a text by itself, and the ids that it is read as."""
        bos = self._metadata.get("tokenizer.ggml.bos_token_id")
        if self._metadata.get("tokenizer.ggml.add_bos_token") and bos is not None:
            rendered = rendered.removeprefix(self._metadata["tokenizer.ggml.tokens"][bos])
        asked = {"content": rendered, "parse_special": True, "add_special": True}
        return rendered, list(self._post("/tokenize", asked)["tokens"])

    def likeliest(self, ids: Sequence[int], count: int) -> Iterator[tuple[int, str, float]]:
        """The likeliest continuation of at most `count` tokens: each, its text, and how far it is from the next one.

        That is by logs of probabilities. A control token has no text. The end comes before a token that is a part of a
        character: the server shows no probabilities until that is whole.
        """
        asked = {"n_predict": count, "temperature": 0, "n_probs": 2, "return_tokens": True, "cache_prompt": False}
        reply = self._post("/completion", {"prompt": list(ids), **asked})
        for token, shown in zip(reply["tokens"], self._shown(reply), strict=False):
            if shown["id"] != token or "\ufffd" in shown["token"]:
                return
            best, next_best = (candidate["logprob"] for candidate in shown["top_logprobs"])
            yield token, str(shown["token"]), best - next_best

    def answer(self, ids: Sequence[int], *, max_tokens: int, temperature: float, top_p: float, seed: int) -> str:
        """The answer to a conversation as `question` gives it, of at most `max_tokens`."""
        sampling = {"n_predict": max_tokens, "temperature": temperature, "top_p": top_p, **UNCUT, "seed": seed}
        reply = self._post("/completion", {"prompt": list(ids), **sampling, "n_probs": 1, "cache_prompt": False})
        self._shown(reply)
        return str(reply["content"])

    def _shown(self, reply: dict[str, Any]) -> list[dict[str, Any]]:
        """The tokens of a reply with their candidates. Raises SmokeError where the logs of these are no numbers."""
        tokens: list[dict[str, Any]] = reply.get("completion_probabilities", [])
        if any(candidate["logprob"] is None for token in tokens for candidate in token["top_logprobs"]):
            raise no_numbers(self._model.name)
        return tokens

    @cached_property
    def _metadata(self) -> dict[str, Any]:
        return read_header(self._model).metadata

    @cached_property
    def _control(self) -> ControlTokens:
        tokens, types = (self._metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type"))
        return ControlTokens(token for token, kind in zip(tokens, types, strict=True) if kind in _CONTROL)

    def _post(self, path: str, data: dict[str, Any]) -> dict[str, Any]:
        """Ask over one connection that is kept: of a small model, a new one takes as long as its answer."""
        asked = json.dumps(data)
        try:
            reply = self._send(path, asked)
        except ConnectionError:  # the server closes what was idle for seconds; to ask again changes nothing
            self._connection.close()
            reply = self._send(path, asked)
        said = dict(json.loads(reply.read()))
        if reply.status != HTTPStatus.OK:
            raise SmokeError(
                f"llama.cpp does not answer with {self._model.name}",
                why=f"{path}: {reply.status} {said.get('error', said)}",
                do="look into the log beside the store's other files, or export another quantisation",
            )
        return said

    def _send(self, path: str, asked: str) -> HTTPResponse:
        self._connection.request("POST", path, asked.encode(), {"Content-Type": "application/json"})
        return self._connection.getresponse()
