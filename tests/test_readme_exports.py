"""What the README has to type about exports, typed: every line of its sections on Ollama, hubs and serving."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.ollama_server import FakeOllama
from tests.workshop import Workshop

pytestmark = pytest.mark.model
README = (Path(__file__).parent.parent / "README.md").read_text("utf-8")


def commands(*titles: str) -> list[str]:
    """The lines to type in the sections with these titles, for our document instead of the handbook."""
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL))
    blocks = [
        block for title in titles for block in re.findall(r"^```sh\n(.*?)^```", sections[title], re.M | re.DOTALL)
    ]
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line.replace("handbook", "tower") for line in lines if not line.startswith("pip ")]


def test_every_line_about_exports_works(built: Workshop) -> None:
    typed = commands("In Ollama", "On a model hub", "Served from here")
    assert {line.split(":")[0] for line in typed} == {"doit ollama", "doit hub", "doit runtime"}
    with FakeOllama(built.store / "cache" / "reference.json") as server:
        built.environment["OLLAMA_HOST"] = server.host
        for line in typed:
            built.shell(line, code=0)
        assert list(server.models) == ["tower:q4_k_m"]
    for place in (
        "exports/Q4_K_M/llama-server.sh",
        "hub/Q4_K_M/README.md",
        "runtime/vllm/serve.sh",
        "runtime/mlx/serve.sh",
    ):
        assert (built.store / place).is_file(), place
    assert "export:Q8_0" in README and "`dlm serve handbook`" in README  # tests/test_graph.py, tests/cli/test_serve.py
