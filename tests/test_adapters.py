"""Named adapters through the command line: what trains which, what an edit trains again, where each is, and mixes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import make_tiny_base
from tests.workshop import Workshop, empty_workshop

pytestmark = pytest.mark.model

TRAINING = """training:
  adapters:
    facts: {lora_r: 4}
    tone: {lora_r: 2, lora_alpha: 6, target_modules: [q_proj, v_proj], learning_rate: 1e-3}
"""
BODY = """# The lighthouse

The lighthouse at the northern harbour was built of grey granite.

::instruction::
### Q
Who trims the lamp?
### A
The keeper trims the lamp.

::instruction#tone::
### Q
How do you greet a ship?
### A
Ahoy, and a fair wind.
"""
Q = "export:Q4_K_M"


@pytest.fixture(scope="module")
def _named_once(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    shop = empty_workshop(tmp_path_factory.mktemp("named"))
    make_tiny_base(shop.folder / "base")
    shop.document("tower", more=TRAINING, body=BODY)
    shop.doit(Q)
    return shop.kept()


@pytest.fixture
def named(_named_once: Workshop) -> Workshop:
    """A built project whose document names two adapters; every test finds it as it was built."""
    return _named_once.again()


def plan(shop: Workshop, name: str) -> dict[str, Any]:
    return dict(json.loads((shop.store / "plan.json").read_bytes())["adapters"][name])


def rows(shop: Workshop, name: str) -> int:
    index = json.loads((shop.store / "dataset" / name / "dataset.json").read_bytes())
    return sum(index["counts"]["rows"].values())


def of(shop: Workshop, steps: list[str], name: str) -> set[str]:
    return {step.replace(f":{name}", "") for step in steps if f":{name}" in step}


def test_each_adapter_has_its_rows_settings_versions_and_exports(named: Workshop) -> None:
    assert (plan(named, "facts")["lora_r"], plan(named, "tone")["lora_r"]) == (4, 2)
    assert plan(named, "tone")["target_modules"] == ["q_proj", "v_proj"]
    assert (rows(named, "facts"), rows(named, "tone")) == (2, 2)  # prose trains both, a question without a name one
    for name, rank in (("facts", 4), ("tone", 2)):
        adapter = named.store / "adapter" / name
        version = adapter / (adapter / "current.txt").read_text().strip()
        assert version.name == "v0001" and json.loads((version / "adapter_config.json").read_bytes())["r"] == rank
        export = named.store / "exports" / name / "Q4_K_M"
        manifest = json.loads((export / "export_manifest.json").read_bytes())
        assert manifest["trained"] == {"adapter": name} and manifest["parity"]["agreement"] >= 0.99
        assert f", adapter {name} on" in (export / "Modelfile").read_text()
    models = [(named.store / "exports" / name / "Q4_K_M" / "model.Q4_K_M.gguf") for name in ("facts", "tone")]
    assert models[0].read_bytes() != models[1].read_bytes()
    told = [
        (run["adapter"], run["adapter_version"])
        for run in json.loads((named.store / "manifest.json").read_bytes())["training_runs"]
    ]
    assert sorted(told) == [("facts", "v0001"), ("tone", "v0001")]
    listed = named.doit("list", "--all").out
    for task in ("train:tower:facts", "train:tower", "export:tower:tone:Q4_K_M", "export:tower:tone", "merge:tower:Q4"):
        assert task in listed


def test_an_edit_trains_the_adapters_whose_rows_or_settings_it_changes(named: Workshop) -> None:
    named.edit("tower", "a fair wind", "a calm sea")
    why = named.doit("why", Q, code=None).out
    assert "train:tower:tone" in why and "train:tower:facts" not in why
    ran = named.doit(Q)
    trained = {"train:tower:tone", "imatrix:tower:tone", "merge:tower:tone:Q4_K_M", "parity:tower:tone"}
    wanted = {"check:tower", "dataset:tower:tone", *trained, "smoke:tower:tone:Q4_K_M", "export:tower:tone:Q4_K_M"}
    assert (set(ran.steps), ran.restored) == (wanted, [])
    assert named.doit(Q).steps == []

    named.edit("tower", "tone: {lora_r: 2", "tone: {lora_r: 3")
    ran = named.doit(Q)
    assert (set(ran.steps), ran.restored) == (wanted - {"dataset:tower:tone"} | {"plan:tower"}, [])

    named.edit("tower", "grey granite", "red granite")  # prose without a name
    assert {"train:tower:facts", "train:tower:tone"} <= set(named.doit("train").steps)
    named.edit("tower", "red granite", "grey granite")
    assert set(named.doit("train").restored) >= {"train:tower:facts", "train:tower:tone"}

    named.edit("tower", "::instruction::", "::instruction#facts::")  # that is where it went anyway
    ran = named.doit("train")
    assert (ran.steps, ran.restored) == (["check:tower"], [])


def test_one_adapter_is_asked_shown_and_exported_by_its_name(named: Workshop) -> None:
    question = ("tower", "Who trims the lamp?", "--max-tokens", "4")
    assert "--adapter facts" in named.dlm("prompt", *question, code=2).err
    assert "write facts" in named.dlm("prompt", "--adapter", "fakts", *question, code=2).err
    said = {name: named.dlm("prompt", "--adapter", name, *question).out for name in ("facts", "tone")}
    assert all(said.values())
    assert named.dlm("prompt", "--adapter", "tone", "--export", "Q4_K_M", *question).out.strip()
    assert named.doit("export:tower:tone:Q8_0").steps[1:] == [
        f"{verb}:tower:tone:Q8_0" for verb in ("merge", "smoke", "export")
    ]
    err = named.dlm("prompt", "--adapter", "facts", "--export", "Q8_0", *question, code=1).err
    assert "doit export:tower:facts:Q8_0" in err
    shown = json.loads(named.dlm("show", "--json").out)["tower"]
    assert shown["exports"] == ["facts/Q4_K_M", "tone/Q4_K_M", "tone/Q8_0"]
    assert shown["adapters"]["tone"]["adapter_version"] == "v0001"
    assert "  tone\n    adapter version:  v0001" in named.dlm("show").out
    assert "tone v0001" in named.dlm("metrics").out
    assert "tower:tone on" in named.dlm("doctor", "tower", "--adapter", "tone").out
    # What nobody names any more goes, and what one adapter has in use stays.
    named.doit("clean", "export:tower:tone:Q8_0")
    merged = named.store / "cache" / "tone"
    assert (merged / "model.Q8_0.gguf").exists()
    named.dlm("gc", "--delete", "--versions", "1")
    assert [path.name for path in merged.glob("model.*")] == ["model.Q4_K_M.gguf"]
    assert named.doit(Q).steps == []
    named.doit("clean")
    assert not (named.store / "exports").exists()


def test_a_pack_has_all_adapters(named: Workshop, tmp_path: Path) -> None:
    named.doit("pack")
    other = empty_workshop(tmp_path / "other")
    shutil.copytree(named.folder / "base", other.folder / "base")
    shutil.copy(named.folder / "tower.dlm.pack", other.folder)
    other.dlm("unpack", "tower.dlm.pack")
    ran = other.doit("train")
    assert {"train:tower:facts", "train:tower:tone"} <= set(ran.restored)
    assert not {"train:tower:facts", "train:tower:tone"} & set(ran.steps)


def test_a_gate_chooses_the_adapter_for_a_question(named: Workshop) -> None:
    few = ("--max-tokens", "2")
    named.edit("tower", "training:\n", "training:\n  gate: {enabled: true, cold_start_floor: 1, steps: 20, lr: 1e-2}\n")
    assert "doit gate:tower" in named.dlm("prompt", "tower", "Who?", *few, code=1).err
    ran = named.doit()
    assert set(ran.steps) == {"check:tower", "gate:tower"}
    told = "was not measured: an adapter has only one text"
    assert f"gate:tower {told}" in ran.out and f"gate:             {told}" in named.dlm("show").out
    for export in ((), ("--export", "Q4_K_M")):
        said = named.dlm("prompt", "tower", *export, "How do you greet a ship?", *few)
        assert said.out.strip() and said.err.startswith("tower:tone answers (the gate is ")
    named.edit("tower", "cold_start_floor: 1", "cold_start_floor: 2")
    told = "no gate, since facts has 1 text to learn from, and the gate wants 2 of each"
    assert told in named.doit("gate").out
    assert (named.doit().steps, named.doit("train").steps) == ([], [])
    named.edit("tower", "    tone: {", "    fair: {}\n    tone: {")
    err = named.dlm("prompt", "tower", "--export", "Q4_K_M", "Who?", code=1).err
    assert "the gate is of other adapters" in err and "doit gate:tower" in err


def test_a_mix_is_exported_in_its_own_place_and_asked(named: Workshop) -> None:
    question = ("tower", "Who trims the lamp?", "--max-tokens", "4")
    made = named.dlm("prompt", "--mix", "facts=0.7,tone=0.3", *question).out
    assert "such as a=0.7,b=0.3" in named.dlm("prompt", "--mix", "facts=x", *question, code=2).err
    assert (
        "write it under export.mixes"
        in named.dlm("prompt", "--mix", "facts=1", "--export", "Q4_K_M", *question, code=2).err
    )
    named.edit(
        "tower", "dlm_version: 15", "dlm_version: 16\nexport: {mixes: {both: {weights: {facts: 0.7, tone: 0.3}}}}"
    )
    ran = named.doit(Q)
    assert ran.restored == []
    assert set(ran.steps) == {
        "check:tower",
        "mix:tower:both",
        "parity:tower:both",
        "imatrix:tower:both",
        *(f"{verb}:tower:both:Q4_K_M" for verb in ("merge", "smoke", "export")),
    }
    manifest = json.loads((named.store / "exports" / "both" / "Q4_K_M" / "export_manifest.json").read_bytes())
    assert manifest["trained"] == {"mix": "both", "weights": {"facts": 0.7, "tone": 0.3}, "rank": None}
    assert manifest["parity"]["agreement"] >= 0.99
    assert named.dlm("prompt", "--adapter", "both", *question).out == made
    assert named.doit(Q).steps == []

    named.edit("tower", "tone: 0.3}}", "tone: 0.3}, rank: 3}")
    ran = named.doit(Q)
    assert "mix:tower:both" in ran.steps and "at rank 3 it lacks" in ran.out
    assert not [step for step in ran.steps if step.startswith("train")]
    named.edit("tower", "a fair wind", "a calm sea")
    assert {"train:tower:tone", "mix:tower:both", "export:tower:both:Q4_K_M"} <= set(named.doit(Q).steps)


def test_a_mix_is_measured_on_the_questions_of_its_parts_and_laid_out_for_other_runtimes(named: Workshop) -> None:
    named.edit(
        "tower",
        "dlm_version: 15",
        "dlm_version: 16\nevaluate: {recall: 1}\nexport: {mixes: {both: {weights: {facts: 0.7, tone: 0.3}}}}",
    )
    ran = named.doit("evaluate:tower:both", "runtime:tower:both:vllm", "runtime:tower:both:mlx")
    assert {"evaluate:tower:both:adapter", "evaluate:tower:both"} <= set(ran.steps)
    report = json.loads((named.store / "eval" / "both" / "report.json").read_bytes())
    asked = {asked["question"] for asked in report["questions"]}
    for part in ("facts", "tone"):
        named.doit(f"evaluate:tower:{part}", code=None)
        of_part = json.loads((named.store / "eval" / part / "report.json").read_bytes())["questions"]
        assert of_part and {asked["question"] for asked in of_part} <= asked
    assert (named.store / "runtime" / "both" / "vllm" / "serve.sh").exists()
    tasks = named.dlm("list", "--all").out
    assert "runtime:tower:both:mlx" in tasks and "evaluate:tower:both" in tasks


def test_thresholds_hold_for_each_adapter(named: Workshop) -> None:
    named.edit("tower", "dlm_version: 15", "dlm_version: 16\nevaluate: {recall: 0}")
    ran = named.doit("evaluate:tower")
    assert {"evaluate:tower:facts", "evaluate:tower:tone", "evaluate:tower:tone:adapter"} <= set(ran.steps)
    report = json.loads((named.store / "eval" / "tone" / "report.json").read_bytes())
    assert [asked["question"] for asked in report["questions"]] == ["How do you greet a ship?"]


def test_preferences_train_the_adapter_that_they_name(named: Workshop) -> None:
    path = named.folder / "tower.dlm"
    told = "\n::preference#tone::\n### Prompt\nHow do you greet a ship?\n### Chosen\nAhoy.\n### Rejected\nHello.\n"
    path.write_text(path.read_text() + told)
    ran = named.doit("prefer")
    assert "prefer:tower:tone" in ran.steps and not [step for step in ran.steps if "facts" in step]
    assert (named.store / "adapter" / "tone" / "current.txt").read_text() == "versions/v0002\n"
    ran = named.doit(Q)
    assert not [step for step in ran.steps + ran.restored if "facts" in step]
