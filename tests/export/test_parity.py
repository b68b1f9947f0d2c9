"""How far an export is from what was trained; outputs that are no numbers are told as such, on both sides."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from dlmbuild.errors import SmokeError
from dlmbuild.export.base_gguf import convert_base
from dlmbuild.export.parity import _divergence
from dlmbuild.io.digest import canonical_json
from dlmbuild.jobs.local import run_job
from tests.tiny import make_tiny_adapter, make_tiny_base
from tests.workshop import Workshop


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
    best: dict[str, Any] = {"best": [[6, 7], [7, 8]], "logprob": [[-1.0, -2.0], [-1.0, -2.0]]}
    compared = [{"text": "", "ids": [5, 6, 7], "first": 1, **best}]
    (tmp_path / "reference.json").write_bytes(canonical_json({"probes": [], "compared": compared}))
    with pytest.raises(SmokeError, match=r"the outputs of base\.gguf are infinite or not a number") as caught:
        run_job(
            "compare",
            inputs={"gguf": tmp_path / "base.gguf", "reference": tmp_path / "reference.json"},
            params={"report": "parity.json", "least_agreement": 0.99},
            out=tmp_path / "out",
            log=tmp_path / "log",
        )
    assert "learning_rate lower" in caught.value.do


def test_an_export_says_how_far_it_is_from_what_was_trained(built: Workshop) -> None:
    folder = built.store / "exports" / "Q4_K_M"
    manifest = json.loads((folder / "export_manifest.json").read_bytes())
    exact, quantised = manifest["parity"], manifest["smoke"]
    assert exact["agreement"] > quantised["agreement"] > 0.3
    assert exact["kl"]["mean"] < 1e-4 < quantised["kl"]["mean"]
    trained = exact["perplexity"]["trained"]
    assert exact["perplexity"]["file"] == pytest.approx(trained, rel=1e-3)
    assert quantised["perplexity"]["trained"] == trained
    assert quantised["perplexity"]["file"] != pytest.approx(trained, rel=1e-3)
    assert exact["perplexity"]["tokens"] == quantised["perplexity"]["tokens"] > 30  # of every row of the document
    shown = json.loads(built.dlm("show", "--json", "tower").out)["tower"]["compared"]["Q4_K_M"]
    assert shown == {name: quantised[name] for name in ("agreement", "kl", "perplexity")}
    row = f"Q4_K_M{quantised['agreement']:>35.1%}{quantised['kl']['mean']:>10.4f}"
    assert row in built.dlm("show", "tower").out
    assert f"the perplexity is {quantised['perplexity']['file']:.2f}" in (folder / "README.md").read_text()


def test_the_divergence_is_never_more_than_that_of_all_tokens() -> None:
    wanted, found = [0.5, 0.2, 0.15, 0.1, 0.05], [0.3, 0.3, 0.1, 0.25, 0.05]
    whole = sum(p * math.log(p / q) for p, q in zip(wanted, found, strict=True))
    logs = [{token: math.log(p) for token, p in enumerate(some)} for some in (wanted, found)]
    bounds = [_divergence({t: logs[0][t] for t in range(named)}, logs[1])[0] for named in range(1, 5)]
    assert 0 < bounds[0] <= bounds[1] <= bounds[2] < whole
    assert bounds[3] == pytest.approx(whole)  # the one that is left stands for itself
