"""Every family that is converted: transformers and llama.cpp compute the same, with and without an adapter."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from dlmbuild.base_models import official
from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.export.base_gguf import read_model
from dlmbuild.export.conversion import convert_adapter, convert_base
from dlmbuild.export.imatrix import gguf_names, read_importance
from dlmbuild.export.merge import merge_quantized
from dlmbuild.export.quantize import quantize_base
from dlmbuild.io.gguf_file import read_header
from tests.export.test_llama_cpp import TEXTS, answers, compare, transformers_says
from tests.families import FAMILIES, make_adapter, make_model
from tests.tiny import make_tiny_base, write_json
from tests.workshop import Workshop

NEAR = {"mixtral": 0.1}
"""Largest difference of a log-probability that half-precision weights explain, if not 0.02: experts weigh by a sharp
function of half-precision numbers."""


def linear_layers(base: Path) -> list[str]:
    names = {weight.hf.split(".")[-2] for weight in read_model(base).weights() if weight.linear}
    return sorted(names)


@pytest.mark.model
@pytest.mark.parametrize("family", FAMILIES)
def test_llama_cpp_computes_what_transformers_computes(family: str, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    make_model(base, family)
    make_adapter(adapter, base, linear_layers(base))
    f16, lora, merged = (tmp_path / name for name in ("f16.gguf", "lora.gguf", "merged.gguf"))
    convert_base(base, f16, name="tiny")
    convert_adapter(adapter, base, lora)
    merge_quantized(base, adapter, f16, "F16", merged, name="merged", threads=2)

    plain, trained = transformers_says(base), transformers_says(base, adapter)
    assert compare(as_found(plain), trained)[1] > 0.3  # so the adapter does something
    found = answers(base, f16)
    for said, wanted in ((found, plain), (answers(base, f16, lora), trained), (answers(base, merged), trained)):
        same, worst = compare(said, wanted)
        assert (same, worst < NEAR.get(family, 0.02)) == (12, True), worst
        assert said["shown"] > 5  # where library and server were compared
    named = gguf_names(read_header(f16))
    for weight in read_model(base).weights():
        assert f"{named(weight.hf.removesuffix('.weight'))}.weight" == weight.gguf or not weight.linear
    small, small_merged = tmp_path / "q.gguf", tmp_path / "mq.gguf"
    quantize_base(f16, "Q4_K_M", small, threads=2)
    merge_quantized(base, adapter, small, "Q4_K_M", small_merged, name="merged", threads=2)
    assert read_header(small_merged).tensors.keys() == read_header(f16).tensors.keys()
    if family == "mixtral":
        assert len(answers(base, small_merged)["next"]) == len(plain)
    tokenizer = Tokenizer.from_base(base)
    assert found["tokens"] == [tokenizer.encode(text, control=True) for text in TEXTS]


def as_found(wanted: list[dict[int, float]]) -> dict[str, Any]:
    return {"next": [sorted(one.items(), key=lambda item: -item[1])[:20] for one in wanted]}


@pytest.mark.model
@pytest.mark.parametrize("family", ["phi3", "gemma3"])
def test_from_a_document_to_a_quantised_export(workshop: Workshop, family: str) -> None:
    """The whole way, which ends with llama.cpp being compared with the trained model token by token."""
    make_model(workshop.folder / "base", family)
    workshop.document("tower", more="training:\n  num_epochs: 1\n")
    told = workshop.doit("export:Q4_K_M").out
    facts = json.loads((workshop.store / "plan.json").read_text())
    layers = {"phi3": "gate_up_proj", "gemma3": "gate_proj"}
    assert layers[family] in facts["target_modules"]
    parity = json.loads((workshop.store / "cache" / "parity.json").read_text())
    assert parity["agreement"] >= 0.99, told
    header = read_header(workshop.store / "exports" / "Q4_K_M" / "model.Q4_K_M.gguf")
    assert header.metadata["general.architecture"] == family
    assert header.tensors["blk.0.attn_output.weight"].type == "Q5_0"  # 64 numbers in a row suit no K-quant


@pytest.mark.model
def test_experts_are_no_linear_layers(workshop: Workshop) -> None:
    make_model(workshop.folder / "base", "mixtral")
    workshop.document("tower", more="training:\n  target_modules: [q_proj, w1, gate]\n")
    told = workshop.doit("plan", code=1)
    told = told.out + told.err
    for name in ("w1", "gate"):
        assert f'names "{name}", which is no linear layer in the blocks of this base' in told
    assert told.count("those are k_proj, o_proj, q_proj, v_proj") == 2


def test_a_pre_tokenizer_that_a_person_vouches_for(workshop: Workshop) -> None:
    base = workshop.folder / "base"
    make_tiny_base(base)
    data = json.loads((base / "tokenizer.json").read_text())
    data["pre_tokenizer"]["pretokenizers"].append({"type": "Digits", "individual_digits": False})
    write_json(base / "tokenizer.json", data)
    workshop.document("tower")
    refused = workshop.doit("train", code=1)
    assert "tokenizer.json: the tokenizer cuts its text by" in refused.err + refused.out
    advised = re.search(r"set DLM_PRE_TOKENIZER=(\w{12})=<name>", refused.err + refused.out)
    assert advised is not None
    assert not {step.split(":")[0] for step in refused.steps} & {"base", "plan", "train"}
    vouched = workshop.doit("gguf", DLM_PRE_TOKENIZER=f"{advised[1]}=starcoder")
    assert [step.split(":")[0] for step in vouched.steps] == ["base", "gguf"]
    (folder,) = (workshop.home / "bases").iterdir()
    assert read_header(folder / "base.F16.gguf").metadata["tokenizer.ggml.pre"] == "starcoder"


@pytest.mark.real
def test_another_architecture_goes_through_llama_cpps_converter(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = os.environ.get("DLM_BASE_PACKAGES")
    if packages and not (Path(packages) / official.facts()["name"]).is_file():
        pytest.skip("the folder of packages lacks llama.cpp's sources")
    make_model(workshop.folder / "base", "olmo3")
    workshop.document("tower", more="training:\n  num_epochs: 1\n")
    workshop.doit("export:Q4_K_M")
    (base,) = (workshop.home / "bases").iterdir()
    facts = json.loads((base / "base.json").read_text())
    assert facts["converter"]["sha256"] == official.PACKAGE_SHA256
    assert "gate_proj" in facts["linear_layers"]
    assert json.loads((workshop.store / "cache" / "parity.json").read_text())["agreement"] >= 0.99
    assert "blk.0.attn_q.weight" in read_importance(workshop.store / "cache" / "imatrix.gguf")
    first = (base / "base.F16.gguf").read_bytes()
    assert str(workshop.home).encode() not in first
    records = [json.loads(path.read_text()) for path in (workshop.home / "records").glob("*/*.json")]
    assert [record["params"]["converter"] for record in records if "converter" in record["params"]] == [
        facts["converter"]
    ]
