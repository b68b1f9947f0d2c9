"""`doit ollama:…` against a server that behaves, and against ones that do not: what is registered has been proven."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ollama_server import FakeOllama
from tests.workshop import Ran, Workshop

NAME = "tower:q4_k_m"
TASK = "ollama:tower:Q4_K_M"


@pytest.fixture
def ollama(built: Workshop) -> Iterator[FakeOllama]:
    with FakeOllama(built.store / "cache" / "reference.json") as server:
        built.environment["OLLAMA_HOST"] = server.host
        yield server


def refused(built: Workshop, ollama: FakeOllama, *words: str) -> Ran:
    """The build fails with these words, and nothing is left in Ollama."""
    before = {NAME: ollama.models[NAME]} if NAME in ollama.models else {}
    ran = built.doit(TASK, code=1)
    for word in words:
        assert word in ran.err, ran.err
    assert "Traceback" not in ran.err and "defect" not in ran.err and "→" in ran.err
    assert ollama.models == before
    return ran


def test_an_export_is_registered_once_and_again_when_it_is_gone(built: Workshop, ollama: FakeOllama) -> None:
    assert built.doit("why", TASK, code=1).out.startswith("run ")
    ran = built.doit(TASK)
    assert ran.steps == [TASK] and "ollama run tower:q4_k_m" in ran.out
    assert "8 texts give the same tokens there" in ran.out
    (model,) = ollama.models.values()
    manifest = json.loads((built.store / "exports" / "Q4_K_M" / "export_manifest.json").read_bytes())
    assert model["files"] == {"model.Q4_K_M.gguf": "sha256:" + manifest["files"]["model.Q4_K_M.gguf"]["sha256"]}
    assert model["template"] == manifest["ollama"]["template"] and "range $i" in model["template"]
    assert model["parameters"] == manifest["ollama"]["parameters"]
    assert list(ollama.models) == [NAME]

    assert built.doit(TASK).steps == []
    assert "up to date" in built.dlm("build", TASK).out
    del ollama.models[NAME]
    assert f"Ollama has no {NAME}" in built.doit("why", TASK, code=1).out
    uploads = ollama.asked.count("POST /api/blobs/")
    assert built.dlm("build", TASK).steps == [TASK] and NAME in ollama.models
    assert ollama.asked.count("POST /api/blobs/") == uploads == 1  # the file is there already


def test_a_plain_build_does_not_ask_ollama(built: Workshop, ollama: FakeOllama) -> None:
    built.doit()
    assert ollama.asked == []


def test_other_settings_replace_the_model(built: Workshop, ollama: FakeOllama) -> None:
    built.doit("ollama")
    built.edit("tower", "base_model:", "export: {default_temperature: 0.5}\nbase_model:")
    built.doit("ollama:Q4_K_M")
    assert ollama.models[NAME]["parameters"]["temperature"] == 0.5 and list(ollama.models) == [NAME]


def test_a_model_of_the_same_name_is_kept(built: Workshop, ollama: FakeOllama) -> None:
    ollama.models[NAME] = {"files": {"theirs.gguf": "sha256:0"}, "parameters": {}}
    refused(built, ollama, "has another model called tower:q4_k_m", f"ollama rm {NAME}")


def test_what_a_killed_build_left_is_swept(built: Workshop, ollama: FakeOllama) -> None:
    ollama.models[f"{NAME}.building"] = {"files": {}, "parameters": {}}
    built.doit(TASK)
    assert list(ollama.models) == [NAME]


def test_no_server(built: Workshop) -> None:
    ran = built.doit(TASK, code=1, OLLAMA_HOST="127.0.0.1:9")
    assert "no Ollama answers at http://127.0.0.1:9" in ran.err and "ollama serve" in ran.err


def test_no_address(built: Workshop) -> None:
    assert "OLLAMA_HOST is no address" in built.doit(TASK, code=1, OLLAMA_HOST="127.0.0.1:port").err


def test_not_ollama_at_all(built: Workshop, ollama: FakeOllama) -> None:
    ollama.version = None  # type: ignore[assignment]
    ollama.refuses["/api/tags"] = (200, "no models here")
    refused(built, ollama, "does not speak as Ollama does")


def test_an_old_version(built: Workshop, ollama: FakeOllama) -> None:
    ollama.version = "0.4.7"
    refused(built, ollama, "is 0.4.7, and this model needs 0.5.5 or newer", "update Ollama")
    assert not ollama.blobs


@pytest.mark.parametrize("status", [400, 200])
def test_a_refused_create(built: Workshop, ollama: FakeOllama, status: int) -> None:
    ollama.refuses["/api/create"] = (status, "unsupported\x1b[2J architecture")
    refused(built, ollama, "the Ollama 0.34.4 at http", "does not create tower:q4_k_m", "unsupported [2J architecture")


def test_a_digest_that_does_not_match(built: Workshop, ollama: FakeOllama) -> None:
    ollama.refuses["/api/blobs"] = (400, "digest mismatch, expected a, got b")
    refused(built, ollama, "does not take model.Q4_K_M.gguf (HTTP 400)", "digest mismatch")


@pytest.mark.parametrize("path", ["/api/blobs", "/api/create", "/api/show", "/api/chat", "/api/copy"])
def test_a_server_that_dies(built: Workshop, ollama: FakeOllama, path: str) -> None:
    ollama.dies_at = path
    ran = built.doit(TASK, code=1)
    assert "went away while it was to" in ran.err and "Traceback" not in ran.err
    assert NAME not in ollama.models
    ollama.dies_at = ""  # it is started again
    assert built.doit(TASK).steps == [TASK] and list(ollama.models) == [NAME]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"template": "{{ .Prompt }} and more"}, "another chat template than it was sent"),
        ({"parameters": 'stop    "<|im_end|>"\nnum_ctx 1024\nseed 42\ntemperature 0'}, "than it was sent: num_ctx"),
        ({"parameters": ""}, "than it was sent: num_ctx"),
        ({"parameters": "stop"}, "does not speak as Ollama does"),
    ],
)
def test_a_model_that_is_not_what_was_sent(
    built: Workshop, ollama: FakeOllama, changes: dict[str, Any], told: str
) -> None:
    ollama.changes = changes
    refused(built, ollama, told)


def test_other_tokens(built: Workshop, ollama: FakeOllama) -> None:
    ollama.miscounts = 1
    refused(built, ollama, "tokens, and llama.cpp here as", "its tokenizer is another one")


@pytest.mark.ollama
def test_a_real_server(built: Workshop) -> None:
    from dlmbuild.errors import ExportError
    from dlmbuild.export.ollama.client import OllamaServer

    try:
        server = OllamaServer()
        _ = server.version
    except ExportError as error:
        pytest.skip(error.what)
    try:
        assert "ollama run tower:q4_k_m" in built.doit(TASK).out
        assert built.doit(TASK).steps == []
    finally:
        server.delete(NAME)


def test_the_client_takes_no_way_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from dlmbuild.export.ollama.client import OllamaServer

    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    monkeypatch.setitem(os.environ, "HTTP_PROXY", "http://proxy.invalid:1")
    assert OllamaServer().address == "http://127.0.0.1:11434"
