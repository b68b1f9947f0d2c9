from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dlmbuild.doc.schema import UNBUILT_BLOCKS, Preference, Training
from dlmbuild.errors import HardwareError
from dlmbuild.hardware.detect import MAX_THREADS, Machine
from dlmbuild.hardware.plan import refused_modules, resolve_plan
from dlmbuild.train.determinism import EpochOrder

MACHINE = Machine("cpu", "avx2", 4, 16 << 30)
GPU = replace(MACHINE, device="cuda")
LAYERS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
BASE: dict[str, Any] = {"context_length": 2048, "layers": 30, "parameters": 135_000_000, "linear_layers": LAYERS}
RECIPE = {
    "learning_rate": 2e-3,
    "num_epochs": 4,
    "micro_batch_size": 2,
    "grad_accum": 1,
    "lora_r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.0,
    "layers": "all",
    "lr_scheduler": "linear",
    "warmup_ratio": 0.0,
    "sequence_len": 1024,
    "retention": 0.0,
    "retention_rows": 1,
    "wordings": 1,
}
WRITTEN: dict[str, Any] = {
    "lora_r": 4,
    "lora_alpha": 12,
    "lora_dropout": 0.1,
    "layers": "last 10",
    "rslora": True,
    "validation": 0.25,
    "early_stopping": 3,
    "target_modules": ("v_proj", "q_proj", "v_proj"),
    "sequence_len": 128,
    "micro_batch_size": 3,
    "grad_accum": 2,
    "learning_rate": 5e-4,
    "num_epochs": 7,
    "lr_scheduler": "cosine",
    "warmup_ratio": 0.25,
    "precision": "bf16",
    "wordings": 5,
    "retention": 2.0,
    "seed": 7,
    "cpt": {"schedule": "sft", "weight": 2.0},
}


def training(**written: Any) -> dict[str, Any]:
    """What document.json holds under "training" when this is written in the document."""
    return Training(**written).model_dump(mode="json")


def plan(machine: Machine = MACHINE, base: dict[str, Any] | None = None, **written: Any) -> dict[str, Any]:
    return resolve_plan({**training(**written), "preference": {"enabled": False}}, RECIPE, base or BASE, machine)


def test_attention_is_what_is_fastest_in_the_precision_on_the_device() -> None:
    assert plan(precision="bf16")["attention"] == "whole"
    assert plan(precision="fp32")["attention"] == plan(GPU, precision="bf16")["attention"] == "sdpa"


def preference(**written: Any) -> dict[str, Any]:
    """The plan of the second phase of a document that has preferences."""
    asked = Preference(**written).model_dump(mode="json")
    recipe = {**RECIPE, "preference_learning_rate": 1e-4, "preference_epochs": 3}
    found: dict[str, Any] = resolve_plan(
        {**training(), "preference": {**asked, "enabled": True}}, recipe, BASE, MACHINE
    )["preference"]
    return found


def test_auto_comes_from_the_recipe() -> None:
    found = plan()
    assert {name: found[name] for name in RECIPE} == RECIPE
    assert found["target_modules"] == sorted(LAYERS)
    assert (found["seed"], found["precision"], found["device"]) == (42, "fp32", "cpu")


def test_what_is_written_wins() -> None:
    found = plan(**WRITTEN)
    assert {name: found[name] for name in WRITTEN} == {
        **WRITTEN,
        "target_modules": ["q_proj", "v_proj"],
        "cpt": {"weight": 2.0},
    }


@pytest.mark.parametrize("field", sorted(WRITTEN))
def test_each_field_changes_the_plan_and_nothing_else_in_it(field: str) -> None:
    before, after = plan(), plan(**{field: WRITTEN[field]})
    also = ["cpt"] if field in ("lr_scheduler", "warmup_ratio") else []  # what is written wins over that of prose
    also += ["attention"] * (field == "precision")
    assert [name for name in before if before[name] != after[name]] == [field, *also]


def test_the_schedule_of_prose_is_its_own_unless_another_one_is_written() -> None:
    own = {"lr_scheduler": "cosine_with_min_lr", "warmup_ratio": 0.2}
    assert plan()["cpt"] == {**own, "weight": 1.0, "dapt_from": 0.7}
    assert plan(cpt={"schedule": "dapt"})["cpt"] == {**own, "weight": 1.0, "dapt_from": 0.0}
    assert plan(cpt={"schedule": "sft"})["cpt"] == {"weight": 1.0}
    assert plan(lr_scheduler="linear")["cpt"] == {"weight": 1.0}
    assert plan(warmup_ratio=0.1)["cpt"]["warmup_ratio"] == 0.1


def test_every_field_of_the_document_is_in_the_plan_and_no_auto_is_left() -> None:
    found = plan()
    elsewhere = {"adapters", "preference", "gate", "incremental"}  # plans and phases of their own
    elsewhere |= {"sources", "sources_policy", "replay", "cache"}  # rows
    fields = set(Training.model_fields) - {key.rpartition(".")[2] for key in UNBUILT_BLOCKS} - elsewhere
    assert fields <= set(found)
    assert set(WRITTEN) | {"adapter", "optimizer"} == fields  # not every machine allows each value of those
    assert "auto" not in found.values() and None not in found.values()


def test_each_named_adapter_has_a_plan() -> None:
    found = plan(adapters={"facts": {"lora_r": 4, "learning_rate": 1e-3}, "tone": {}})["adapters"]
    assert found["tone"] == plan()
    assert found["facts"] == plan() | {"lora_r": 4, "learning_rate": 1e-3}
    bad = training(adapters={"tone": {"target_modules": ("qproj",)}})
    ((path, error),) = refused_modules(bad, BASE).items()
    assert path == ("adapters", "tone", "target_modules", 0)
    assert error.what.startswith('training.adapters.tone.target_modules names "qproj"')


def test_the_second_phase_has_what_its_method_uses() -> None:
    dpo = {"method": "dpo", "beta": 0.1, "loss_type": "sigmoid", "reference": "pre_adapter"}
    assert preference() == {**dpo, "learning_rate": 1e-4, "num_epochs": 3}
    written = {"beta": 0.2, "learning_rate": 1e-3, "num_epochs": 2}
    found = preference(loss_type="ipo", reference="base", hyperparams=written)
    assert found == {**written, "method": "dpo", "loss_type": "ipo", "reference": "base"}
    orpo = preference(method="orpo", hyperparams={"alpha": 0.3})
    assert orpo == {"method": "orpo", "alpha": 0.3, "learning_rate": 1e-4, "num_epochs": 3}
    kto = {name: value for name, value in dpo.items() if name != "loss_type"} | {"method": "kto"}
    assert preference(method="kto") == {**kto, "learning_rate": 1e-4, "num_epochs": 3}


def test_the_same_every_time() -> None:
    assert plan() == plan(replace(MACHINE, memory_bytes=12 << 30))


def test_a_recipe_never_asks_for_more_than_the_base_reads() -> None:
    assert plan(base={**BASE, "context_length": 512})["sequence_len"] == 512


def test_a_written_length_that_the_base_cannot_read_is_refused() -> None:
    assert plan(sequence_len=2048)["sequence_len"] == 2048
    with pytest.raises(HardwareError, match="sequence_len is 4096, the base reads 2048 at most") as caught:
        plan(sequence_len=4096)
    assert caught.value.field == "sequence_len"
    assert "2048 or less" in caught.value.do


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_fp16_needs_a_gpu(device: str) -> None:
    with pytest.raises(HardwareError, match=f"fp16, which is slow or not a number on {device}") as caught:
        plan(replace(MACHINE, device=device), precision="fp16")
    assert caught.value.field == "precision"
    assert plan(GPU, precision="fp16")["precision"] == "fp16"


def test_precision_follows_the_device() -> None:
    assert plan(GPU)["precision"] == "bf16"
    assert plan(replace(MACHINE, device="mps"))["precision"] == "fp32"
    assert plan(GPU, precision="fp32")["precision"] == "fp32"


def test_a_base_that_is_too_large_is_refused_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    large = {**BASE, "parameters": 7_000_000_000}
    with pytest.raises(HardwareError, match="takes about 34 GiB, and the machine has 16 GiB") as caught:
        plan(base=large)
    assert caught.value.field == ""
    assert plan(GPU, base=large)
    assert plan(replace(MACHINE, memory_bytes=24 << 30), base=large, precision="bf16")
    monkeypatch.setattr("dlmbuild.hardware.quantised.pin", lambda _: "0.50.2")
    assert plan(base=large, adapter="qlora")
    with pytest.raises(HardwareError, match="takes about 42 GiB, and the machine has 16 GiB"):
        plan(base={**BASE, "parameters": 70_000_000_000}, adapter="qlora")


def test_threads_are_bounded() -> None:
    assert plan(replace(MACHINE, cores=128))["threads"] == MAX_THREADS
    assert plan(replace(MACHINE, cores=1))["threads"] == 1


def test_modules_that_the_base_does_not_have_are_refused_one_by_one() -> None:
    assert refused_modules(training(), BASE) == {}
    assert refused_modules(training(target_modules=("q_proj", "down_proj")), BASE) == {}
    refused = refused_modules(training(target_modules=("q_proj", "qproj", "lm_head", ".*", "self_attn.k_proj")), BASE)
    assert list(refused) == [("target_modules", at) for at in (1, 2, 3, 4)]
    assert 'names "qproj", which is no linear layer' in refused["target_modules", 1].what
    assert all(", ".join(LAYERS) in error.why for error in refused.values())
    assert [refused["target_modules", at].do for at in (1, 4)] == ['did you mean "q_proj"?', 'did you mean "k_proj"?']
    assert "`auto` is all of them" in refused["target_modules", 2].do


@pytest.mark.parametrize(
    ("rows", "accumulated", "processes", "shared"),
    [
        (2, 1, 1, (2, 1, 1)),
        (2, 1, 2, (1, 1, 2)),
        (8, 4, 4, (8, 1, 4)),
        (4, 3, 6, (2, 1, 6)),
        (2, 1, 8, (1, 1, 2)),  # no more than there are rows
        (3, 1, 2, (3, 1, 1)),  # nobody gets more than another
    ],
)
def test_a_step_has_the_same_rows_by_however_many_processes(
    rows: int, accumulated: int, processes: int, shared: tuple[int, int, int]
) -> None:
    found = plan(replace(MACHINE, processes=processes), micro_batch_size=rows, grad_accum=accumulated)
    assert (found["micro_batch_size"], found["grad_accum"], found["world_size"]) == shared
    assert found["threads"] == max(1, 4 // found["world_size"])


def test_processes_that_share_a_training_take_every_row_once() -> None:
    lengths = list(range(10, 31))
    alone = EpochOrder(lengths, {"micro_batch_size": 4, "world_size": 1, "seed": 3})
    shared = EpochOrder(lengths, {"micro_batch_size": 2, "world_size": 2, "seed": 3})
    assert [row for row in shared if row < len(lengths)] == list(alone)
    assert list(shared)[len(lengths) :] == [len(lengths)] * 3 and len(shared) == 24
