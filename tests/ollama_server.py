"""A server that speaks the part of Ollama's API that we use, in the shapes of https://docs.ollama.com/api.

It has no model: how many tokens a text has it takes from the reference that the build made. What it does wrong is set.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Reply = dict[str, Any] | list[dict[str, Any]]


class FakeOllama(AbstractContextManager["FakeOllama"]):
    """Runs until the block ends."""

    def __init__(self, reference: Path, version: str = "0.34.4") -> None:
        self.version = version
        self.blobs: dict[str, int] = {}
        self.models: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.dies_at = ""
        """The path at which the connection is cut from then on, after `survives` requests to it."""
        self.refuses: dict[str, tuple[int, str]] = {}
        """Path → HTTP status and error; a status of 200 tells it inside the stream."""
        self.changes: dict[str, Any] = {}
        """What /api/show says otherwise."""
        self.miscounts = 0
        self.answers = "I do not know."
        self._counts = {}
        probes = json.loads(reference.read_bytes())["probes"]
        for probe in probes:
            self._counts["".join(text for text, _ in probe["pieces"])] = len(probe["ids"])
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __exit__(self, *exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    # -- what it answers ---------------------------------------------------------------------------------------

    def reply(self, method: str, path: str, data: dict[str, Any]) -> tuple[int, Reply]:
        if path == "/api/version":
            return 200, {"version": self.version}
        if path == "/api/tags":
            named = [{"name": name, "model": name, "digest": self.digest(name)} for name in self.models]
            return 200, {"models": named}
        name = data.get("model") or data.get("source", "")
        if path == "/api/create":
            (blob,) = data["files"].values()
            if blob not in self.blobs:
                return 400, {"error": f"blob {blob} not found"}
            self.models[name] = {key: value for key, value in data.items() if key not in ("model", "stream")}
            return 200, [{"status": "parsing GGUF"}, {"status": "writing manifest"}, {"status": "success"}]
        if name not in self.models:
            return 404, {"error": f"model '{name}' not found"}
        if path == "/api/show":
            return 200, {**self.shown(self.models[name]), **self.changes}
        if path == "/api/copy":
            self.models[data["destination"]] = self.models[name]
            return 200, {}
        if path == "/api/delete":
            del self.models[name]
            return 200, {}
        if path == "/api/generate":
            count = self._counts[data["prompt"]] if data.get("prompt") else 0
            return 200, {"model": name, "response": self.answers, "done": True, "prompt_eval_count": self._count(count)}
        asked = data["messages"][-1]["content"]
        count = next(count for text, count in self._counts.items() if f"{asked}<|im_end|>" in text)
        message = {"role": "assistant", "content": self.answers}
        return 200, {"model": name, "message": message, "done": True, "prompt_eval_count": self._count(count)}

    def digest(self, name: str) -> str:
        return hashlib.sha256(json.dumps(self.models[name], sort_keys=True).encode()).hexdigest()

    @staticmethod
    def shown(model: dict[str, Any]) -> dict[str, Any]:
        lines = []
        for name, value in model["parameters"].items():
            for one in value if isinstance(value, list) else [value]:
                lines.append(f"{name:<30} {json.dumps(one) if isinstance(one, str) else format(one, 'g')}")
        return {"template": model.get("template", ""), "parameters": "\n".join(lines), "details": {}, "model_info": {}}

    def _count(self, tokens: int) -> int:
        return tokens + self.miscounts

    def _handler(self) -> Callable[..., BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                fake.asked.append(f"{self.command} {self.path.partition('sha256')[0]}")
                body = self._body()
                if fake.dies_at and self.path.startswith(fake.dies_at) and self.command != "HEAD":
                    fake.dies_at = "/"
                    self.close_connection = True
                    return
                status, error = fake.refuses.get(self.path.partition("/sha256")[0], (0, ""))
                if self.path.startswith("/api/blobs/"):
                    status, found = self._blob(body, status, error)
                elif status > 200:
                    found = {"error": error}
                elif status:
                    found = [{"status": "parsing GGUF"}, {"error": error}]
                else:
                    status, found = fake.reply(self.command, self.path, json.loads(body) if body else {})
                lines = "\n".join(map(json.dumps, found)) if isinstance(found, list) else json.dumps(found)
                self.send_response(status)
                self.send_header("Content-Length", str(len(lines)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(lines.encode())

            do_GET = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815

            def _blob(self, body: bytes, status: int, error: str) -> tuple[int, Reply]:
                digest = self.path.rpartition("/")[2]
                if self.command == "HEAD":
                    return (200 if digest in fake.blobs else 404), {}
                if status:
                    return status, {"error": error}
                if f"sha256:{hashlib.sha256(body).hexdigest()}" != digest:
                    return 400, {"error": "digest mismatch"}
                fake.blobs[digest] = len(body)
                return 201, {}

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def log_message(self, *words: object) -> None:
                pass

        return Handler
