"""Importance matrices through the command line: what they touch, what they are, and that they are worth it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from dlmbuild.base_models.dequantize import read_rows
from dlmbuild.errors import ExportError
from dlmbuild.export.imatrix import are_experts, inputs_of_experts, read_importance
from dlmbuild.export.kernels import pack_rows
from dlmbuild.io.gguf_file import Planned, read_header, write_gguf
from tests.families import make_model
from tests.tiny import make_tiny_base
from tests.workshop import Workshop


def test_models_are_rounded_by_what_the_document_says_unless_it_does_not_want_that(built: Workshop) -> None:
    folder = built.store / "exports" / "Q4_K_M"
    model, base = folder / "model.Q4_K_M.gguf", folder / "base.Q4_K_M.gguf"
    weighed, shared = model.read_bytes(), base.read_bytes()
    assert json.loads((folder / "export_manifest.json").read_bytes())["imatrix"] == "rows of the document"
    assert "an importance matrix of the text it learned" in (folder / "README.md").read_text()

    made = built.store / "cache" / "imatrix.gguf"
    assert read_header(made).metadata["general.type"] == "imatrix"
    found, tensors = read_importance(made), read_header(model).tensors
    linear = {name for name in tensors if name.startswith("blk.") and "_norm" not in name}
    assert set(found) == linear and all(found[name].shape == (1, tensors[name].shape[-1]) for name in linear)

    # What rounds little needs none, and of the others a change of the settings for answers makes none anew.
    assert not any(step.startswith(("imatrix", "parity")) for step in built.doit("export:Q8_0").steps)
    built.edit("tower", "dlm_version: 15", "dlm_version: 16\nexport: {default_temperature: 0.5}")
    assert built.doit("export:Q4_K_M").steps == ["check:tower", "export:tower:Q4_K_M"]

    built.edit("tower", "default_temperature: 0.5", "imatrix: off")
    ran = built.doit("export:Q4_K_M")
    assert ran.steps == ["check:tower", "merge:tower:Q4_K_M", "smoke:tower:Q4_K_M", "export:tower:Q4_K_M"]
    assert base.read_bytes() == shared and model.read_bytes() != weighed
    assert "imatrix" not in json.loads((folder / "export_manifest.json").read_bytes())
    assert "imatrix:tower" not in built.doit("list", "--all").out

    built.edit("tower", "imatrix: off", "imatrix: auto")
    assert "merge:tower:Q4_K_M" in built.doit("export:Q4_K_M").restored and model.read_bytes() == weighed


def test_types_are_those_that_llama_cpp_chooses_with_a_matrix(workshop: Workshop) -> None:
    make_tiny_base(workshop.folder / "base", layers=8)
    workshop.document("tower")
    workshop.doit("export:Q4_0")
    folder = workshop.store / "exports" / "Q4_0"
    base, model = (read_header(folder / f"{name}.Q4_0.gguf").tensors for name in ("base", "model"))
    changed = {name: (info.type, model[name].type) for name, info in base.items() if info.type != model[name].type}
    assert changed == {"blk.0.ffn_down.weight": ("Q4_0", "Q4_1")}


def test_the_smallest_kinds_are_made_by_a_matrix_alone(workshop: Workshop) -> None:
    make_model(workshop.folder / "base", "llama", hidden=256)  # whose rows have whole blocks
    workshop.document("tower", version=16)
    told = workshop.doit("export:IQ2_M")
    assert "IQ2_M is made by an importance matrix of the whole" in told.out
    assert not any(step.startswith("quantize") for step in told.steps)
    folder = workshop.store / "exports" / "IQ2_M"
    assert not {"base.IQ2_M.gguf", "adapter.gguf"} & {path.name for path in folder.iterdir()}
    assert "tuned with LoRA" in (folder / "README.md").read_text()
    header = read_header(folder / "model.IQ2_M.gguf")
    assert header.metadata["general.file_type"] == 29
    assert {"IQ2_S", "IQ3_S", "Q5_K"} <= {info.type for info in header.tensors.values()}
    assert workshop.doit("export:IQ2_M").steps == []
    workshop.doit("export:Q2_K_S")  # whose embedding, with an output layer beside it, has no inputs to measure
    refused = workshop.dlm("serve", "tower", "--quant", "IQ2_M", "--base-and-adapter", code=2).err
    assert "tower has no adapter beside its model: IQ2_M is made by an importance matrix" in refused


def test_what_needs_a_matrix_that_a_document_does_without_is_refused_before_anything_is_built(
    workshop: Workshop,
) -> None:
    make_tiny_base(workshop.folder / "base")
    for name, more in (("tower", "export: {imatrix: off}"), ("bell", "export: {default_quant: IQ3_XXS}")):
        workshop.document(name, version=16, more=f"{more}\n")
    told = 'tower.dlm:5:19: export.imatrix is "off": there is no IQ2_M without an importance matrix\n'
    told += "  → delete it, or export Q2_K or IQ3_S\n"
    for words in (["export:tower:IQ2_M"], ["export:IQ2_M"], ["gguf", "smoke:t*:IQ2_M"], ["why", "hub:tower:IQ2_M"]):
        refused = workshop.doit(*words, code=3)
        assert f"ERROR: {told}" in refused.err and not refused.steps
        assert workshop.dlm(*words, code=2).err == told

    workshop.doit("list", "--all", "--status", "export:tower:IQ3_XXS")
    assert "export:bell:IQ2_M" in workshop.doit("why", "export:bell:IQ2_M", code=1).out
    assert workshop.doit("check").steps == ["check:bell", "check:tower"]
    workshop.doit("clean", "export:tower:IQ2_M")

    workshop.edit("tower", "imatrix: off", "imatrix: off, default_quant: IQ1_S")
    refusal = workshop.doit("check", code=1).err
    assert 'export.default_quant is "IQ1_S": there is none of that kind without an importance matrix' in refusal


@pytest.mark.parametrize(
    ("family", "inner"), [("mixtral", 384), pytest.param("qwen3_moe", 256, marks=pytest.mark.real)]
)
def test_every_expert_is_rounded_by_what_its_own_tokens_say(workshop: Workshop, family: str, inner: int) -> None:
    make_model(workshop.folder / "base", family, hidden=256, decided=30.0)
    workshop.document("tower")
    ran = workshop.doit("export:IQ2_XS")
    assert "smoke:tower:IQ2_XS" in ran.steps and "without a matrix" not in ran.out
    header = read_header(workshop.store / "exports" / "IQ2_XS" / "model.IQ2_XS.gguf")
    assert header.tensors["blk.1.ffn_up_exps.weight"].type == "IQ2_XS"

    made = workshop.store / "cache" / "imatrix.gguf"
    matrix, held = read_importance(made), read_header(made).tensors
    assert {name: numbers.shape for name, numbers in matrix.items() if "exps" in name} == {
        f"blk.{block}.ffn_{part}_exps.weight": (4, inner if part == "down" else 256)
        for block in (0, 1)
        for part in ("gate", "up", "down")
    }

    def stored(name: str) -> np.ndarray:
        return read_rows(made, held[name], 0, held[name].shape[0])

    # Two of four are chosen for every token, and what chooses has the same inputs.
    once, gate = "blk.0.ffn_gate_inp.weight", "blk.0.ffn_gate_exps.weight"
    assert stored(f"{gate}.counts").sum() == 2 * stored(f"{once}.counts").item()
    np.testing.assert_allclose(stored(f"{gate}.in_sum2").sum(0), 2 * stored(f"{once}.in_sum2")[0], rtol=1e-5)


def test_experts_that_no_token_needs_are_told(workshop: Workshop) -> None:
    make_model(workshop.folder / "base", "mixtral", num_local_experts=64, intermediate_size=32)
    workshop.document("tower")
    told = re.search(r"(\d+) of 128 experts are chosen for no token of the rows", workshop.doit("imatrix").out)
    made = workshop.store / "cache" / "imatrix.gguf"
    held = read_header(made).tensors
    alone = 0
    for block in (0, 1):
        name = f"blk.{block}.ffn_up_exps.weight"
        unseen = read_rows(made, held[f"{name}.counts"], 0, 64)[:, 0] == 0
        assert (read_importance(made)[name][unseen] == 1).all()
        alone += int(unseen.sum())
    assert told is not None and int(told[1]) == alone > 0


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "olmoe", "deepseek_v3"])
def test_what_goes_into_experts_is_what_their_layers_are_given(family: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 48, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "first_k_dense_replace": 0}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, vocab_size=64, **sizes, **heads))
    (module,) = (one for one in model.modules() if are_experts(one))
    hidden, scores = torch.randn(50, 32), torch.rand(50, 2)
    chosen = torch.rand(50, len(module.down_proj)).topk(2).indices
    total = torch.zeros(50, 32)
    for expert, given, last in inputs_of_experts(module, hidden[None], chosen):
        token, place = torch.where(chosen == expert)
        assert (given == hidden[token]).all()
        total[token] += scores[token, place, None] * (last @ module.down_proj[expert].T)
    torch.testing.assert_close(module(hidden, chosen, scores), total)


def test_what_is_no_matrix_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "imatrix.gguf"
    for experts, count, what in ((3, 1.0, "has no count of its own"), (2, -1.0, "holds what is no mean")):
        sums = np.ones((2, 4), "<f4")
        parts = {"w.counts": np.full((experts, 1), count, "<f4"), "w.in_sum2": sums}
        data = {Planned(name, "F32", numbers.shape): [numbers.tobytes()] for name, numbers in parts.items()}
        write_gguf(path, [], list(data), data.__getitem__)
        with pytest.raises(ExportError, match=what):
            read_importance(path)


def test_it_spares_the_columns_that_matter() -> None:
    rows = np.random.default_rng(7).normal(size=(16, 256)).astype("f4")
    matter = np.ones(256, "f4")
    matter[::8] = 100

    def lost(importance: np.ndarray | None) -> float:
        from gguf import GGMLQuantizationType, dequantize

        packed = np.frombuffer(pack_rows("w", rows, "Q4_K", importance), np.uint8).reshape(16, -1)
        return float((np.square(dequantize(packed, GGMLQuantizationType.Q4_K) - rows) * matter).sum())

    assert lost(matter) < 0.95 * lost(None)
    with pytest.raises(ExportError, match="the importance matrix has 3 columns for w, which has 256"):
        lost(np.ones(3, "f4"))
