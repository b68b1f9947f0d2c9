from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from dlmbuild.hardware.detect import Machine
from dlmbuild.hardware.fit import refusals, smaller, verdict
from dlmbuild.hardware.memory import Estimate, Load, Setup, Shape, estimate

SHAPE = Shape(12, 768, 12, 4, 64, 2048, 32000, True)
MACHINE = Machine("cpu", "avx2", 4, 16 << 30)
PLAN: dict[str, Any] = {
    "adapter": "lora",
    "device": "cpu",
    "gradient_checkpointing": False,
    "grad_accum": 2,
    "lora_dropout": 0.0,
    "lora_r": 8,
    "micro_batch_size": 6,
    "world_size": 1,
    "optimizer": "adamw_torch",
    "precision": "fp32",
    "sequence_len": 1024,
    "target_modules": ["q_proj", "v_proj"],
    "layers": "all",
}


def load(plan: Mapping[str, Any]) -> Load:
    rows, tokens = plan["micro_batch_size"], min(700, plan["sequence_len"])
    return Load(rows, tokens, 0, masks=rows > 1)


def forecast(plan: Mapping[str, Any]) -> Estimate:
    return estimate(SHAPE, Setup.of_plan(plan, load(plan)))


def total(**changes: Any) -> int:
    return forecast({**PLAN, **changes}).total


def test_the_verdict_leaves_room() -> None:
    assert [verdict(total, 100) for total in (80, 81, 95, 96)] == ["fits", "tight", "tight", "does not fit"]


def test_fewer_rows_at_once_come_first_and_train_as_many_in_a_step() -> None:
    free = int(total(micro_batch_size=3) / 0.8) + 1
    found = smaller(PLAN, forecast, free, 700)
    assert found is not None
    assert found.values == {"micro_batch_size": 3, "grad_accum": 4}
    assert found.total == total(micro_batch_size=3)
    one = smaller(PLAN, forecast, int(total(micro_batch_size=1) / 0.8) + 1, 700)
    assert one is not None and one.values == {"micro_batch_size": 1, "grad_accum": 12}
    assert str(one) == "micro_batch_size: 1, grad_accum: 12"
    odd = smaller({**PLAN, "micro_batch_size": 5}, forecast, int(total(micro_batch_size=2) / 0.8) + 1, 700)
    assert odd is not None and odd.values == {"micro_batch_size": 2, "grad_accum": 5}
    odd = smaller(
        {**PLAN, "micro_batch_size": 5, "grad_accum": 1}, forecast, int(total(micro_batch_size=2) / 0.8) + 1, 700
    )
    assert odd is not None and odd.values == {"micro_batch_size": 1, "grad_accum": 5}


def test_then_half_precision_then_shorter_rows_and_at_last_nothing() -> None:
    one = {"micro_batch_size": 1, "grad_accum": 12, "precision": "bf16"}
    half = smaller(PLAN, forecast, int(total(**one) / 0.8) + 1, 700)
    assert half is not None and half.values == one
    short = {**one, "sequence_len": 175}
    found = smaller(PLAN, forecast, int(total(**short) / 0.8) + 1, 700)
    assert found is not None and found.values == short
    assert smaller(PLAN, forecast, 1 << 28, 700) is None


def test_in_half_precision_attention_is_the_one_that_is_then_trained_with() -> None:
    def several(plan: Mapping[str, Any]) -> Estimate:
        return estimate(SHAPE, Setup.of_plan(plan, Load(1, 500, 100, masks=True)))

    one = {**PLAN, "micro_batch_size": 1, "attention": "sdpa"}
    half = several({**one, "precision": "bf16", "attention": "whole"}).total
    found = smaller(one, several, int(half / 0.8) + 1, 500)
    assert found is not None and found.values == {"precision": "bf16"} and found.total == half


def test_on_a_gpu_the_precision_stays() -> None:
    gpu = {**PLAN, "device": "cuda", "precision": "bf16", "micro_batch_size": 1}
    tried: list[Mapping[str, Any]] = []

    def none_fits(plan: Mapping[str, Any]) -> Estimate:
        tried.append(plan)
        return forecast(PLAN)

    assert smaller(gpu, none_fits, 1, 200) is None
    assert [plan["sequence_len"] for plan in tried] == [100, 64]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Whether bitsandbytes is."""
    version = "0.50.2" if getattr(request, "param", True) else ""
    monkeypatch.setattr("dlmbuild.hardware.quantised.pin", lambda _: version)


def test_what_is_refused_on_a_cpu_and_why(installed: None) -> None:
    found = refusals(MACHINE, None)
    assert "GaLore projects the gradients" in found["training.optimizer: galore_adamw"]
    assert "nothing is paged" in found["training.optimizer: paged_adamw_8bit"]
    assert "training.adapter: qlora" not in found and "training.optimizer: adamw_bnb_8bit" not in found
    assert "not a number, on cpu" in found["training.precision: fp16"]
    assert "training.precision: bf16" not in found


@pytest.mark.parametrize(("installed", "bf16"), [(True, True), (False, False)], indirect=["installed"])
def test_what_is_refused_on_a_gpu(installed: None, bf16: bool) -> None:
    facts = {"kind": "cuda", "name": "Tesla T4", "bf16": bf16}
    bitsandbytes = bf16
    found = refusals(replace(MACHINE, device="cuda"), facts)
    assert "training.precision: fp16" not in found
    assert ("Tesla T4 has no units" in found.get("training.precision: bf16", "")) == (not bf16)
    for value in ("adapter: qlora", "optimizer: adamw_bnb_8bit", "optimizer: paged_adamw_8bit"):
        told = found.get(f"training.{value}", "")
        assert ("the package bitsandbytes is not installed" in told) == (not bitsandbytes)
    rocm = refusals(replace(MACHINE, device="cuda"), {"kind": "rocm"})
    assert "on NVIDIA GPUs and on CPUs, not on rocm" in rocm["training.adapter: qlora"]
