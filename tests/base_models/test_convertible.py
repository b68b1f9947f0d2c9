"""What is found out about a base when it is fetched: that it can be converted, and what an adapter can change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from dlmbuild.base_models.convertible import conversion_facts
from dlmbuild.base_models.families import FAMILIES
from dlmbuild.base_models.registry import load_registry
from dlmbuild.errors import BaseModelError
from dlmbuild.io.progress import silent
from tests.tiny import make_tiny_base, write_json


@pytest.fixture
def base(tmp_path: Path) -> Path:
    make_tiny_base(tmp_path / "base")
    return tmp_path / "base"


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    data = json.loads(path.read_text())
    edit(data)
    write_json(path, data)


def refused(base: Path, vouched: str = "") -> BaseModelError:
    with pytest.raises(BaseModelError) as raised:
        conversion_facts(base, vouched, silent)
    return raised.value


def test_of_a_llama(base: Path) -> None:
    layers = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    facts = {"linear_layers": layers, "context_length": 2048, "pre_tokenizer": "smollm", "converter": None}
    assert conversion_facts(base, "", silent) == facts


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "scaled by 'yarn'"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"architectures": ["SmolLM3ForCausalLM"], "no_rope_layers": [1, 0]}, r"no_rope_layers is \[1, 0\]"),
        ({"architectures": ["Olmo2ForCausalLM"]}, "tie_word_embeddings is True"),
        ({"architectures": ["Gemma2ForCausalLM"]}, "hidden_act is 'silu'"),
        ({"architectures": ["Qwen2ForCausalLM"]}, r"k_proj\.bias is missing"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_named(base: Path, values: dict[str, Any], what: str) -> None:
    change(base / "config.json", lambda data: data.update(values))
    with pytest.raises(BaseModelError, match=what):
        conversion_facts(base, "", silent)


def test_the_context_of_a_sliding_window_that_llama_cpp_does_not_know(base: Path) -> None:
    change(base / "config.json", lambda data: data.update(architectures=["MistralForCausalLM"], sliding_window=512))
    assert conversion_facts(base, "", silent)["context_length"] == 512
    change(
        base / "config.json", lambda data: data.update(architectures=["SmolLM3ForCausalLM"], use_sliding_window=False)
    )
    assert conversion_facts(base, "", silent)["context_length"] == 2048


def test_every_row_of_the_registry_is_converted_here() -> None:
    assert {known.architecture for known in load_registry().values()} <= FAMILIES.keys()


def test_layers_and_experts_that_nobody_stored(base: Path) -> None:
    mixtral = {"architectures": ["MixtralForCausalLM"], "num_local_experts": 1024, "num_experts_per_tok": 2}
    change(base / "config.json", lambda data: data.update(mixtral, num_hidden_layers=4096))
    assert refused(base).what == "the configuration promises 4096 layers"


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"partial_rotary_factor": 2.0}, "partial_rotary_factor is 2.0"),
        ({"rope_scaling": {"type": "longrope", "short_factor": [1.0]}}, "long_factor is no list of 8 numbers"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "scaled by 'linear'"),
        ({"head_dim": 32}, "4 heads of 32 and a width of 64"),
    ],
)
def test_the_quirks_of_phi_are_checked(base: Path, values: dict[str, Any], what: str) -> None:
    change(base / "config.json", lambda data: data.update({"architectures": ["Phi3ForCausalLM"], **values}))
    change(base / "config.json", lambda data: data.pop("rope_parameters"))
    with pytest.raises(BaseModelError, match=what):
        conversion_facts(base, "", silent)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"query_pre_attn_scalar": 256}, "query_pre_attn_scalar is 256"),
        ({"layer_types": ["sliding_attention"]}, "layer_types is"),
        ({"layer_types": ["sliding_attention", "chunked"]}, "layer_types is"),
        ({"attn_logit_softcapping": None}, "attn_logit_softcapping is None"),
        ({"sliding_window": None}, "sliding_window is None"),
    ],
)
def test_the_quirks_of_gemma_are_checked(base: Path, values: dict[str, Any], what: str) -> None:
    gemma = {
        "architectures": ["Gemma2ForCausalLM"],
        "hidden_act": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 16,
        "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0,
        "sliding_window": 64,
    }
    change(base / "config.json", lambda data: data.update({**gemma, **values}))
    with pytest.raises(BaseModelError, match=what):
        conversion_facts(base, "", silent)


def test_an_output_layer_that_is_stored_though_it_is_the_embedding(base: Path) -> None:
    held = load_file(base / "model.safetensors")
    held["lm_head.weight"] = held["model.embed_tokens.weight"].copy()
    save_file(held, base / "model.safetensors")
    assert conversion_facts(base, "", silent)["converter"] is None
    held["lm_head.weight"][3, 5] += 1
    save_file(held, base / "model.safetensors")
    assert "holds lm_head.weight" in refused(base).what


def test_a_pre_tokenizer_that_nobody_knows_needs_a_person_who_does(base: Path) -> None:
    def edit(data: dict[str, Any]) -> None:
        data["pre_tokenizer"]["pretokenizers"][0]["individual_digits"] = False

    change(base / "tokenizer.json", edit)
    error = refused(base)
    assert "cuts its text by" in error.what and "another base, or set DLM_PRE_TOKENIZER=" in error.do
    given = error.do.partition("DLM_PRE_TOKENIZER=")[2].split("=")[0]
    facts = conversion_facts(base, f"0123456789ab=other, {given}=starcoder", silent)
    assert facts["pre_tokenizer"] == "starcoder"
    assert "cuts its text by" in refused(base, "0123456789ab=starcoder").what
    assert "DLM_PRE_TOKENIZER holds 'starcoder'" in refused(base, "starcoder").what


def test_an_architecture_that_transformers_does_not_know(base: Path) -> None:
    change(base / "config.json", lambda data: data.update(architectures=["FancyForCausalLM"]))
    error = refused(base)
    assert "FancyForCausalLM" in error.what and "config.json" in str(error.where)
    assert "known are Gemma2ForCausalLM, " in error.why and "Qwen3ForCausalLM" in error.why
