"""`doit runtime:…`: adapters for vLLM and MLX, and what their scripts start: programs that cannot be installed here."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.workshop import Workshop

pytestmark = pytest.mark.model


@pytest.fixture
def programs(tmp_path: Path) -> str:
    """A PATH with programs of the runtimes' names that say what they are told."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("vllm", "mlx_lm.server"):
        (tools / name).write_text('#!/bin/sh\nfor word; do echo "$word"; done\n')
        (tools / name).chmod(0o755)
    return f"{tools}:{os.environ['PATH']}"


def told(built: Workshop, programs: str, runtime: str, *more: str) -> tuple[list[str], dict[str, str]]:
    """The words that a script gives its program, and those with a value by their name."""
    script = built.store / "runtime" / runtime / "serve.sh"
    words = built.shell(f"PATH={programs} sh {script} {' '.join(more)}", code=0).out.splitlines()
    return words, {name: value for name, value in pairwise(words) if name.startswith("--")}


def test_mlx(built: Workshop, programs: str) -> None:
    ran = built.doit("runtime:tower:mlx")
    folder = built.store / "runtime" / "mlx"
    assert ran.steps == ["runtime:tower:mlx"] and f"sh {folder / 'serve.sh'}" in ran.out
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapters.safetensors", "serve.sh"]
    words, values = told(built, programs, "mlx", "--port", "9000")
    assert (Path(values["--model"]) / "config.json").is_file() and Path(values["--adapter-path"]) == folder
    assert values["--host"] == "127.0.0.1" and words[-2:] == ["--port", "9000"]
    assert told(built, f"{programs} BASE=/elsewhere", "mlx")[1]["--model"] == "/elsewhere"
    assert str(built.home) not in (folder / "serve.sh").read_text()
    assert built.doit("runtime:mlx").steps == []


def test_vllm(built: Workshop, programs: str) -> None:
    built.doit("runtime:vllm")
    folder = built.store / "runtime" / "vllm"
    words, values = told(built, programs, "vllm")
    assert words[0] == "serve" and (Path(words[1]) / "config.json").is_file()
    assert Path(values["--config"]) == folder / "vllm.yaml" and values["--lora-modules"] == f"tuned={folder}"
    assert json.loads(values["--override-generation-config"]) == {"temperature": 0.0, "top_p": 1.0}
    settings = YAML(typ="safe").load(folder / "vllm.yaml")
    assert settings["host"] == "127.0.0.1" and settings["enable-lora"] is True
    assert settings["max-lora-rank"] >= json.loads((folder / "adapter_config.json").read_bytes())["r"]
    version = built.store / "adapter" / "versions" / "v0001"
    assert (folder / "adapter_model.safetensors").read_bytes() == (version / "adapter_model.safetensors").read_bytes()


def test_a_plain_build_writes_neither(built: Workshop) -> None:
    built.doit()
    assert not (built.store / "runtime").exists()
    built.doit("runtime:tower")
    built.edit("tower", "base_model:", "export: {default_temperature: 0.5}\nbase_model:")
    steps = built.doit("runtime:tower").steps
    assert (steps[0], sorted(steps[1:])) == ("check:tower", ["runtime:tower:mlx", "runtime:tower:vllm"])
    assert "adapters.safetensors" in built.doit("clean", "-n", "runtime:mlx").out
    built.doit("clean", "runtime")
    assert not (built.store / "runtime").exists()


def test_a_document_with_mistakes(built: Workshop) -> None:
    built.edit("tower", "base_model: file:./base", "base_model: nonsense")
    for words in ("runtime:tower:mlx", "runtime:tower", "hub:tower:Q4_K_M"):
        assert "unknown base model 'nonsense'" in built.doit(words, code=1).err
