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
from dlmbuild.export.conversion import convert_adapter, convert_base
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with an adapter, both as GGUF, too, and what they say: reference.json."""
    folder = tmp_path_factory.mktemp("trained")
    make_tiny_base(folder / "base")
    convert_base(folder / "base", folder / "base.gguf", name="tiny")
    for seed, name in ((1, "adapter"), (2, "other")):
        make_tiny_adapter(folder / name, folder / "base", seed=seed)
        convert_adapter(folder / name, folder / "base", folder / f"{name}.gguf")
    run_job(
        "reference",
        inputs={"base": folder / "base", "adapter": folder / "adapter"},
        params={"questions": ["Who trims the lamp?"], "system_prompt": None},
        out=folder,
        log=folder / "log",
    )
    return folder


def compared(trained: Path, out: Path, gguf: Path | None = None, lora: str | None = "adapter") -> dict[str, Any]:
    files = {"gguf": gguf or trained / "base.gguf", "reference": trained / "reference.json"}
    if lora:
        files["lora"] = trained / f"{lora}.gguf"
    limits = {"report": "parity.json", "least_agreement": 0.99}
    return run_job("compare", inputs=files, params=limits, out=out, log=out / "log")


@pytest.mark.model
def test_another_adapter_than_the_trained_one(trained: Path, tmp_path: Path) -> None:
    assert compared(trained, tmp_path)["agreement"] >= 0.99
    for lora in ("other", None):
        with pytest.raises(SmokeError, match=r"base\.gguf chooses the trained model's token at \d+ of \d+ ") as caught:
            compared(trained, tmp_path, lora=lora)
        assert "they part first at token 1 of 'The capital of France" in caught.value.why


@pytest.mark.model
def test_another_tokenizer_than_that_of_the_base(trained: Path, tmp_path: Path) -> None:
    whole = (trained / "base.gguf").read_bytes()
    merge = "Ġ t".encode()
    assert whole.count(merge) == 1
    other = tmp_path / "other.gguf"
    other.write_bytes(whole.replace(merge, "Ġ a".encode()))  # one that there is already
    with pytest.raises(SmokeError, match=r"as other tokens than the model was trained on") as caught:
        compared(trained, tmp_path, other)
    assert "other.gguf gives [" in caught.value.why


def test_an_export_says_how_far_it_is_from_what_was_trained(built: Workshop) -> None:
    folder = built.store / "exports" / "Q4_K_M"
    manifest = json.loads((folder / "export_manifest.json").read_bytes())
    exact, quantised = manifest["parity"], manifest["smoke"]
    assert exact["agreement"] > quantised["agreement"] > 0.3
    assert exact["kl"]["mean"] < 1e-4 < quantised["kl"]["mean"]
    # Nowhere is a text too odd to be compared: some end within a character.
    assert exact["kl"]["positions"] == quantised["kl"]["positions"] == exact["positions"] > 200
    assert 0 < exact["kl"]["mass"] == quantised["kl"]["mass"] < 1  # the trained model's likeliest, in either file
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
    logs = [[math.log(p) for p in some] for some in (wanted, found)]
    bounds = [_divergence(logs[0][:named], logs[1][:named]) for named in range(1, 5)]
    assert 0 < bounds[0][0] <= bounds[1][0] <= bounds[2][0] < whole
    assert bounds[3] == (pytest.approx(whole), pytest.approx(0.95))  # the one that is left stands for itself
