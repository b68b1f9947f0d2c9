"""The adapter for MLX, read by a numpy copy of what mlx_lm's documentation and LoRALinear say that it computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from dlmbuild.errors import ExportError
from dlmbuild.export.runtimes import mlx, vllm
from tests.tiny import make_tiny_adapter, make_tiny_base, write_json

PARAMETERS = {"temperature": 0.0, "num_ctx": 4096, "seed": 42}
FILES = {"config.json": "0" * 64}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    make_tiny_base(tmp_path / "base", layers=3)
    return tmp_path / "base"


def adapter_of(base: Path, folder: Path, **settings: Any) -> Path:
    make_tiny_adapter(folder, base, **settings)
    write_json(folder / "training_run.json", {"base": {"name": "tiny", "revision": "r1", "files": FILES}})
    return folder


def peft_deltas(adapter: Path, base: Path) -> dict[str, Any]:
    """What PEFT itself adds to each weight, by the weight's name."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
    prefix = "base_model.model."
    return {
        name.removeprefix(prefix): module.get_delta_weight("default").detach().numpy()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def mlx_linear(x: Any, weight: Any, a: Any, b: Any, scale: float) -> Any:
    """mlx_lm's LoRALinear: y = linear(x); z = (x @ lora_a) @ lora_b; y + scale * z."""
    return x @ weight.T + scale * ((x @ a) @ b)


def written(runtime: Any, adapter: Path, base: Path, out: Path) -> Path:
    out.mkdir()
    runtime.write_adapter(adapter, base, files=FILES, base="../base", parameters=PARAMETERS, out=out)
    return out


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"alpha_pattern": {"q_proj": 4}, "ranks": {"v_proj": 2, "down_proj": 7}},
        {"modules": ("self_attn.q_proj", "mlp.up_proj"), "alpha": 3},
    ],
    ids=["plain", "rank-stabilised", "patterns", "two modules"],
)
def test_mlx_computes_what_peft_does(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    adapter = adapter_of(base, tmp_path / "adapter", **settings)
    out = written(mlx, adapter, base, tmp_path / "out")
    config = json.loads((out / "adapter_config.json").read_bytes())
    told = config["lora_parameters"]
    tensors = load_file(out / "adapters.safetensors")
    weights = load_file(base / "model.safetensors")
    expected = peft_deltas(adapter, base)
    layers = range(3)[-config["num_layers"] :]
    assert config["fine_tune_type"] == "lora" and "peft_type" not in config
    # What linear_to_lora_layers makes of the configuration has a tensor each, and nothing is left over.
    modules = [f"model.layers.{layer}.{key}" for layer in layers for key in told["keys"]]
    assert sorted(tensors) == sorted(f"{module}.lora_{half}" for module in modules for half in "ab")
    assert set(modules) == set(expected)
    random = np.random.default_rng(0)
    for module in modules:
        a, b = tensors[f"{module}.lora_a"], tensors[f"{module}.lora_b"]
        assert a.shape[1] == b.shape[0] == told["rank"]
        np.testing.assert_allclose((told["scale"] * b.T) @ a.T, expected[module], rtol=1e-5, atol=1e-7)
        weight = weights[f"{module}.weight"]
        x = random.standard_normal((2, weight.shape[1]), dtype=np.float32)
        after = x @ (weight + expected[module]).T
        np.testing.assert_allclose(mlx_linear(x, weight, a, b, told["scale"]), after, rtol=1e-4, atol=1e-4)


def test_only_the_last_layers(base: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    adapter = adapter_of(base, tmp_path / "adapter")
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({k: v for k, v in tensors.items() if ".layers.2." in k}, adapter / "adapter_model.safetensors")
    out = written(mlx, adapter, base, tmp_path / "out")
    assert json.loads((out / "adapter_config.json").read_bytes())["num_layers"] == 1


def test_an_architecture_with_other_names_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = adapter_of(base, tmp_path / "adapter")
    config = json.loads((base / "config.json").read_bytes())
    write_json(base / "config.json", {**config, "model_type": "mixtral"})
    with pytest.raises(ExportError, match="'mixtral' model is not written for MLX"):
        written(mlx, adapter, base, tmp_path / "out")


@pytest.mark.parametrize("runtime", [mlx, vllm])
def test_what_cannot_be_said_is_refused(base: Path, tmp_path: Path, runtime: Any) -> None:
    with pytest.raises(ExportError, match="use_dora"):
        written(runtime, adapter_of(base, tmp_path / "dora", use_dora=True), base, tmp_path / "a")
    other = adapter_of(base, tmp_path / "other")
    write_json(other / "training_run.json", {"base": {"name": "x", "revision": "r2", "files": {"config.json": "1"}}})
    with pytest.raises(ExportError, match="another base"):
        written(runtime, other, base, tmp_path / "b")


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({}, 8),
        ({"rank": 17}, 32),
        ({"use_rslora": True}, 8),
        ({"alpha_pattern": {"q_proj": 4}, "ranks": {"v_proj": 9}}, 16),
    ],
)
def test_vllm_computes_what_peft_does(base: Path, tmp_path: Path, settings: dict[str, Any], limit: int) -> None:
    adapter = adapter_of(base, tmp_path / "adapter", **settings)
    out = written(vllm, adapter, base, tmp_path / "out")
    config = json.loads((out / "adapter_config.json").read_bytes())
    tensors = load_file(out / "adapter_model.safetensors")
    # vLLM's PEFTHelper: one factor for all, patterns are passed over.
    scale = config["lora_alpha"] / (config["r"] ** 0.5 if config.get("use_rslora") else config["r"])
    for module, delta in peft_deltas(adapter, base).items():
        a, b = (tensors[f"base_model.model.{module}.lora_{half}.weight"] for half in "AB")
        np.testing.assert_allclose(scale * b @ a, delta, rtol=1e-5, atol=1e-7)
    assert config["target_modules"] and config["bias"] == "none"
    assert f"max-lora-rank: {limit}\n" in (out / "vllm.yaml").read_text()


def test_a_rank_that_vllm_does_not_take(base: Path, tmp_path: Path) -> None:
    adapter = adapter_of(base, tmp_path / "adapter", rank=513)
    with pytest.raises(ExportError, match="rank of the adapter is 513"):
        written(vllm, adapter, base, tmp_path / "out")
