"""Mixing: the sum of what adapters add, whatever their ranks, scales and layers; and what a lower rank costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dlmbuild.errors import ExportError
from dlmbuild.export.adapter_gguf import lora_factors
from dlmbuild.export.base_gguf import read_model
from dlmbuild.export.mix import mix
from tests.tiny import make_tiny_adapter, make_tiny_base, write_json

WEIGHTS = {"a": 0.7, "b": 0.3, "c": 1.5}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    make_tiny_base(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def adapters(base: Path, tmp_path: Path) -> dict[str, Path]:
    """Three adapters of different ranks, alphas and layers."""
    made = {name: tmp_path / name for name in WEIGHTS}
    make_tiny_adapter(made["a"], base, rank=4, alpha=8, seed=1)
    make_tiny_adapter(made["b"], base, rank=2, alpha=6, seed=2, modules=("self_attn.q_proj", "mlp.down_proj"))
    make_tiny_adapter(made["c"], base, rank=3, alpha=5, seed=3, ranks={"v_proj": 5}, use_rslora=True)
    for path in made.values():
        write_json(path / "training_run.json", {"base": {"name": "tiny", "revision": "1", "files": {}}})
    return made


def deltas(adapter: Path, base: Path) -> dict[str, NDArray[np.float64]]:
    """What an adapter adds to each weight, in double precision."""
    found = lora_factors(adapter, read_model(base))
    return {name: f.scale * (f.b.astype(np.float64) @ f.a.astype(np.float64)) for name, f in found.items()}


def test_a_mix_adds_the_weighted_sum_of_what_its_parts_add(
    base: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "mix").mkdir()
    assert mix(adapters, WEIGHTS, tmp_path / "mix") == {"rank": 4 + 2 + 3, "error": 0.0} | {"rank": 9}
    wanted: dict[str, NDArray[np.float64]] = {}
    for name, weight in WEIGHTS.items():
        for key, delta in deltas(adapters[name], base).items():
            wanted[key] = wanted.get(key, 0.0) + weight * delta
    found = deltas(tmp_path / "mix", base)
    assert found.keys() == wanted.keys()
    for key in wanted:
        assert np.abs(found[key] - wanted[key]).max() < 1e-6 * np.abs(wanted[key]).max()


def test_the_logits_of_a_mix_are_those_of_the_base_with_all_deltas(
    base: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    from dlmbuild.inference.generate import load_model

    (tmp_path / "mix").mkdir()
    mix(adapters, WEIGHTS, tmp_path / "mix")
    ids = torch.arange(3, 40)[None]
    mixed, summed = load_model(base, tmp_path / "mix"), load_model(base, None)
    weights = dict(summed.named_parameters())
    with torch.no_grad():
        plain = summed(ids).logits
        for name, weight in WEIGHTS.items():
            for key, delta in deltas(adapters[name], base).items():
                weights[key] += weight * torch.from_numpy(delta).float()
        wanted, found = summed(ids).logits, mixed(ids).logits
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()
    assert (wanted - plain).abs().max() > 1e-2 * wanted.abs().max()


def test_a_lower_rank_is_the_nearest_one_and_its_error_is_told(
    base: Path, adapters: dict[str, Path], tmp_path: Path
) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    mix(adapters, WEIGHTS, whole)
    told = mix(adapters, WEIGHTS, cut, rank=4)
    assert told["rank"] == 4
    sums, kept = deltas(whole, base), deltas(cut, base)
    lost = sum(np.linalg.norm(sums[key] - kept[key]) ** 2 for key in sums)
    total = sum(np.linalg.norm(sums[key]) ** 2 for key in sums)
    assert told["error"] == pytest.approx(np.sqrt(lost / total), rel=1e-4)
    for key, delta in kept.items():  # Eckart and Young: no matrix of this rank is nearer
        values = np.linalg.svd(sums[key], compute_uv=False)
        assert np.linalg.norm(sums[key] - delta) == pytest.approx(np.sqrt((values[4:] ** 2).sum()), rel=1e-3, abs=1e-6)
    (tmp_path / "large").mkdir()
    assert mix(adapters, WEIGHTS, tmp_path / "large", rank=64)["error"] < 1e-6


def test_the_same_bytes_whatever_the_order(adapters: dict[str, Path], tmp_path: Path) -> None:
    made: list[dict[str, Any]] = []
    for name, order in (("one", list(WEIGHTS)), ("two", list(WEIGHTS)[::-1])):
        (tmp_path / name).mkdir()
        mix({key: adapters[key] for key in order}, {key: WEIGHTS[key] for key in order}, tmp_path / name)
        made.append(json.loads((tmp_path / name / "adapter.json").read_bytes()))
    assert made[0] == made[1]


def test_adapters_of_two_bases_and_more_than_plain_lora_are_refused(adapters: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "mix").mkdir()
    run = adapters["b"] / "training_run.json"
    before = run.read_bytes()
    write_json(run, {"base": {"name": "other", "revision": "2", "files": {}}})
    with pytest.raises(ExportError, match="b was trained on another base"):
        mix(adapters, WEIGHTS, tmp_path / "mix")
    run.write_bytes(before)
    config = adapters["c"] / "adapter_config.json"
    write_json(config, json.loads(config.read_bytes()) | {"use_dora": True})
    with pytest.raises(ExportError, match="use_dora"):
        mix(adapters, WEIGHTS, tmp_path / "mix")
