"""A running Ollama, through its official client (https://docs.ollama.com/api), every failure in words.

Asked is the server that OLLAMA_HOST names, else the one on this machine.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from dlmbuild.errors import ExportError

_LONGEST_WORDS = 300
_TIMEOUT_SECONDS = 600.0
"""Loading a large model takes minutes; without an end a dead connection would hold a build for ever."""
_FILES_SINCE = (0, 5, 5)
_JINJA_SINCE = (0, 30, 0)
_NO_ADAPTERS_SINCE = (0, 34, 1)
Version = tuple[int, int, int]


class OllamaServer:
    """One server. Every method raises ExportError for a server that is not there, refuses, or says nonsense.

    `patience` is how many seconds an answer may take.
    """

    def __init__(self, patience: float = _TIMEOUT_SECONDS) -> None:
        import httpx

        timeout = httpx.Timeout(patience, connect=min(patience, 5.0))
        try:
            import ollama  # which reads OLLAMA_HOST at once

            self._client = ollama.Client(timeout=timeout, follow_redirects=False)
            self._http: httpx.Client = self._client._client  # for what the official client has no method for
            if self._http.base_url.host in ("localhost", "127.0.0.1", "::1"):
                # Loopback never goes through a proxy, whatever the environment says.
                self._client = ollama.Client(timeout=timeout, follow_redirects=False, trust_env=False)
                self._http = self._client._client
        except (ValueError, httpx.InvalidURL) as error:
            raise ExportError(f"OLLAMA_HOST is no address: {error}", do="OLLAMA_HOST=127.0.0.1:11434") from None
        self.address = str(self._http.base_url).rstrip("/")

    @cached_property
    def version(self) -> str:
        """Its version as it says it."""
        with self._told("say its version"):
            reply = self._http.get("/api/version")
            reply.raise_for_status()
            return str(reply.json()["version"])

    @property
    def takes_adapters(self) -> bool | None:
        """Whether it makes models of a base and an adapter apart; None for a version that does not tell."""
        found = _numbers(self.version)
        return None if found is None or found == (0, 0, 0) else found < _NO_ADAPTERS_SINCE

    def require(self, *, template: bool) -> None:
        """Refuse a version that cannot take the model; `template` says whether the model has one in Go's language."""
        found = _numbers(self.version)
        if found is None or found == (0, 0, 0):  # built by hand: what it does is looked at afterwards
            return
        if found < _FILES_SINCE:
            raise self._too_old(_FILES_SINCE, "before, a model could not be created from uploaded files")
        if found < _JINJA_SINCE and not template:
            why = "before, the template inside a GGUF was not used, and this base's cannot be said in Go's language"
            raise self._too_old(_JINJA_SINCE, why)

    def _too_old(self, least: Version, why: str) -> ExportError:
        needed = ".".join(map(str, least))
        return ExportError(
            f"the Ollama at {self.address} is {_clean(self.version)}, and this model needs {needed} or newer",
            why=why,
            do="update Ollama (https://ollama.com/download), then run this again",
        )

    def digest(self, name: str) -> str:
        """The digest of what is registered under `name`; "" for nothing."""
        with self._told("list its models"):
            models = self._client.list().models
        return next((str(found.digest or "?") for found in models if found.model == name), "")

    def upload(self, file: Path, sha256: str) -> bool:
        """Bring a file to the server, unless it is there; whether it was brought."""
        digest = f"sha256:{sha256}"
        with self._told(f"take {file.name}"):
            if self._http.head(f"/api/blobs/{digest}").status_code == 200:
                return False
            if (sent := self._client.create_blob(file)) != digest:
                raise ExportError(f"{file} is not what its manifest says", why=f"it is {sent}", do="doit export")
            return True

    def create(self, name: str, file: str, sha256: str, settings: Mapping[str, Any]) -> None:
        """Register a model made of an uploaded file."""
        with self._told(f"create {name}"):
            last = None
            for status in self._client.create(
                name,
                files={file: f"sha256:{sha256}"},
                template=settings["template"],
                system=settings["system"],
                license=settings["license"] or None,
                parameters=settings["parameters"],
                stream=True,
            ):
                last = status.status
            if last != "success":
                raise ExportError(f"the Ollama at {self.address} stopped while it created {name}", do=_again(name))

    def show(self, name: str) -> tuple[str, dict[str, list[Any]]]:
        """The template of a model, and its parameters: name → values."""
        with self._told(f"show {name}"):
            shown = self._client.show(name)
            return shown.template or "", _parameters(shown.parameters or "")

    def complete(self, name: str, prompt: str, *, tokens: int) -> tuple[str, int]:
        """The likeliest continuation of a text that no template touches, and how many tokens the text is."""
        with self._told("answer"):
            options = {"num_predict": tokens, "temperature": 0, "seed": 42}
            reply = self._client.generate(name, prompt, raw=True, options=options, stream=False)
            return reply.response, int(reply.prompt_eval_count or 0)

    def chat(self, name: str, messages: Sequence[Mapping[str, str]], *, tokens: int) -> tuple[str, int]:
        """The answer to a conversation as a person has it, and how many tokens the conversation is."""
        with self._told("answer"):
            options = {"num_predict": tokens, "temperature": 0, "seed": 42}
            reply = self._client.chat(name, messages, options=options, stream=False)
            said = (reply.message.thinking or "") + (reply.message.content or "")
            return said, int(reply.prompt_eval_count or 0)

    def unload(self, name: str) -> None:
        """Let a model go from memory, and with it what it remembers of the last text."""
        with self._told("unload a model"):
            self._client.generate(name, keep_alive=0)

    def copy(self, source: str, name: str) -> None:
        with self._told(f"name a model {name}"):
            self._client.copy(source, name)

    def delete(self, name: str) -> None:
        with self._told(f"delete {name}"):
            self._client.delete(name)

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """For the block, whatever goes wrong with the server is told as one mistake."""
        import httpx
        import ollama

        try:
            yield
        except ExportError:
            raise
        except (ConnectionError, httpx.ConnectError, httpx.ConnectTimeout):
            raise ExportError(
                f"no Ollama answers at {self.address}",
                do="start it (ollama serve), or name another one: OLLAMA_HOST=host:port",
            ) from None
        except ollama.ResponseError as error:
            status = f" (HTTP {error.status_code})" if error.status_code > 0 else ""
            raise ExportError(
                f"the Ollama {self._known_version} at {self.address} does not {what}{status}",
                why=_clean(error.error),
                do="look into its log (https://docs.ollama.com/troubleshooting)",
            ) from None
        except httpx.HTTPError as error:
            raise ExportError(
                f"the Ollama at {self.address} went away while it was to {what}",
                why=_clean(f"{type(error).__name__}: {error}"),
                do="look whether it still runs, then run this again",
            ) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ExportError(
                f"what answers at {self.address} does not speak as Ollama does, asked to {what}",
                why=_clean(f"{type(error).__name__}: {error}"),
                do="set OLLAMA_HOST to where Ollama runs",
            ) from None

    @property
    def _known_version(self) -> str:
        return _clean(self.__dict__.get("version", ""))


def _numbers(version: str) -> Version | None:
    found = re.match(r"v?(\d+)\.(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def _parameters(text: str) -> dict[str, list[Any]]:
    """What /api/show says of a model's parameters: a name, spaces, and a value as Go writes it, on each line."""
    import json

    found: dict[str, list[Any]] = {}
    for line in text.splitlines():
        name, _, value = line.strip().partition(" ")
        if name:
            found.setdefault(name, []).append(json.loads(value))
    return found


def _clean(text: str) -> str:
    """A server's words, fit for a line of a terminal."""
    return "".join(char if char.isprintable() else " " for char in text).strip()[:_LONGEST_WORDS]


def _again(name: str) -> str:
    return f"look into its log, then run this again; nothing was registered as {name.rpartition('.')[0] or name}"
