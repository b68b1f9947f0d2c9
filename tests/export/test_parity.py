"""Outputs that are no numbers are told as such, on both sides of the comparison."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dlmbuild.errors import SmokeError
from dlmbuild.export.base_gguf import convert_base
from dlmbuild.io.digest import canonical_json
from dlmbuild.jobs.local import run_job
from tests.tiny import make_tiny_adapter, make_tiny_base


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A base of numbers that are too large to compute with."""
    folder = tmp_path / "base"
    make_tiny_base(folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][:] = np.float32(3e38)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "out").mkdir()
    return folder


@pytest.mark.model
def test_of_the_trained_model(tmp_path: Path, base: Path) -> None:
    make_tiny_adapter(tmp_path / "adapter", base)
    with pytest.raises(SmokeError, match="the outputs of the trained model are infinite or not a number") as caught:
        run_job(
            "reference",
            inputs={"base": base, "adapter": tmp_path / "adapter"},
            params={"questions": ["Who?"], "system_prompt": None},
            out=tmp_path / "out",
            log=tmp_path / "log",
        )
    assert "learning_rate lower" in caught.value.do


def test_of_the_exported_model(tmp_path: Path, base: Path) -> None:
    pytest.importorskip("xllamacpp")
    convert_base(base, tmp_path / "base.gguf", name="tiny")
    compared = {"ids": [5, 6, 7], "first": 1, "best": [[6, 7], [7, 8]], "logprob": [[-1.0, -2.0], [-1.0, -2.0]]}
    probes = [{"pieces": [], "ids": [], "compared": compared}]
    (tmp_path / "reference.json").write_bytes(canonical_json({"probes": probes}))
    with pytest.raises(SmokeError, match=r"the outputs of base\.gguf are infinite or not a number") as caught:
        run_job(
            "compare",
            inputs={"gguf": tmp_path / "base.gguf", "reference": tmp_path / "reference.json"},
            params={"report": "parity.json", "least_agreement": 0.99},
            out=tmp_path / "out",
            log=tmp_path / "log",
        )
    assert "learning_rate lower" in caught.value.do
