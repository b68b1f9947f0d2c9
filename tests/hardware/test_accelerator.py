"""What is read of PyTorch, with objects in place of GPUs: what those really say cannot be seen on a CPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from dlmbuild.cli.doctor import _gpu
from dlmbuild.hardware.accelerator import described


def fake(*, cuda: bool = True, hip: str | None = None, mps: bool = False, **properties: Any) -> Any:
    one = SimpleNamespace(name="NVIDIA H100 80GB HBM3", major=9, minor=0, **properties)
    return SimpleNamespace(
        __version__="2.13.0",
        version=SimpleNamespace(cuda="13.0", hip=hip),
        backends=SimpleNamespace(mps=SimpleNamespace(is_available=lambda: mps)),
        cuda=SimpleNamespace(
            is_available=lambda: cuda,
            get_device_properties=lambda at: one,
            mem_get_info=lambda at: (70 << 30, 80 << 30),
            device_count=lambda: 2,
        ),
    )


def test_an_nvidia_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dlmbuild.hardware.accelerator.find_spec", lambda name: True)
    found = described(fake())
    assert (found["kind"], found["sm"], found["memory"], found["free"]) == ("cuda", "9.0", 80 << 30, 70 << 30)
    assert _gpu(found) == (
        "NVIDIA H100 80GB HBM3 (cuda 13.0, 9.0), 80.0 GiB, 70.0 GiB free; "
        "bf16, fp16, flash attention, bitsandbytes; the first of 2"
    )
    monkeypatch.setattr("dlmbuild.hardware.accelerator.find_spec", lambda name: None)
    assert [described(fake())[name] for name in ("flash_attention", "bitsandbytes")] == [False, False]


def test_an_amd_gpu() -> None:
    found = described(fake(hip="7.0", gcnArchName="gfx942:sramecc+:xnack-"))
    assert (found["kind"], found["driver"], found["sm"], found["bf16"]) == ("rocm", "7.0", "gfx942", True)
    assert described(fake(hip="7.0", gcnArchName="gfx906"))["bf16"] is False
    assert "not used" in _gpu(found)


def test_apple_and_nothing() -> None:
    assert described(fake(cuda=False, mps=True))["kind"] == "mps"
    assert described(fake(cuda=False)) == {"torch": "2.13.0", "kind": "none"}
    assert _gpu({"kind": "none"}) == "none: PyTorch finds none that it can use"
