"""`training.layers` through the command line: what lies below is never changed, and is computed once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tiny import make_tiny_base
from tests.workshop import Workshop

pytestmark = pytest.mark.model

LAST = "training: {layers: last 1, seed: 3, num_epochs: 2}\n"


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    make_tiny_base(workshop.folder / "base")
    workshop.document("tower", more=LAST, version=16)
    return workshop


def _run(shop: Workshop) -> dict[str, int]:
    run: dict[str, int] = json.loads((shop.store / "manifest.json").read_bytes())["training_runs"][-1]
    return run


def _adapter(shop: Workshop) -> Path:
    adapter = shop.store / "adapter"
    return adapter / (adapter / "current.txt").read_text().strip() / "adapter_model.safetensors"


def test_only_the_last_layer_is_trained_exported_and_agreed_on(shop: Workshop) -> None:
    from safetensors import safe_open

    shop.doit("export:Q4_K_M")
    with safe_open(_adapter(shop), "numpy") as weights:
        assert {name.split(".layers.")[1].partition(".")[0] for name in weights.keys()} == {"1"}  # noqa: SIM118
    run = _run(shop)
    assert run["rows_computed"] == run["rows"] > 1
    assert json.loads((shop.store / "plan.json").read_bytes())["layers"] == "last 1"
    assert shop.doit("export:Q4_K_M").steps == []
    shop.doit("pack:tower")
    shop.dlm("unpack", "--check", "tower.dlm.pack")
    assert "layers" in shop.dlm("doctor", "tower").out


def test_an_edit_computes_what_is_new_and_a_damaged_file_again(shop: Workshop) -> None:
    shop.doit("train")
    shop.edit("tower", "### A\n", "### A\nReally: ")
    shop.doit("train")
    edited = _run(shop)
    assert 0 < edited["rows_computed"] < edited["rows"]
    trained = _adapter(shop).read_bytes()
    # One that this training used: that of the text before the edit lies there as well.
    last = max((shop.home / "states").glob("*/*"), key=lambda kept: kept.stat().st_mtime_ns)
    last.write_bytes(last.read_bytes()[:-40] + bytes(40))
    for other in (shop.home / "objects").glob("*/*"):  # nothing to restore the adapter from
        other.unlink()
    _adapter(shop).unlink()
    shop.doit("train")
    assert _run(shop)["rows_computed"] == 1
    assert _adapter(shop).read_bytes() == trained


def test_what_is_kept_is_told_bounded_and_collected(shop: Workshop) -> None:
    shop.doit("train")
    assert "states of frozen layers" in shop.dlm("show", "--size").out
    assert list((shop.home / "states").glob("*/*"))
    before = _adapter(shop).read_bytes()
    shop.edit("tower", "seed: 3", "seed: 4, cache: {max_bytes: 1}")
    shop.doit("train")
    assert not list((shop.home / "states").glob("*/*"))
    shop.edit("tower", "seed: 4, cache: {max_bytes: 1}", "seed: 5, cache: {enabled: false}")
    shop.doit("train")
    assert _run(shop)["rows_computed"] == _run(shop)["rows"]
    assert not list((shop.home / "states").glob("*/*"))
    assert _adapter(shop).read_bytes() != before


def test_more_layers_than_the_base_has_are_refused_where_they_stand(shop: Workshop) -> None:
    shop.edit("tower", "last 1", "last 3")
    told = shop.doit("train", code=1).err
    assert "tower.dlm:5:20: training.layers asks for the last 3 layers, the base has 2" in told
    shop.edit("tower", "last 3", "first 3")
    told = shop.doit("train", code=1).err
    assert 'tower.dlm:5:20: training.layers is "first 3"' in told
    assert '"auto", "all", or "last N"' in told
    shop.edit("tower", "dlm_version: 16", "dlm_version: 15")
    assert "training.layers in version 15" in shop.doit("check", code=1).err


def test_a_killed_training_ends_with_the_bytes_of_one_that_was_not(shop: Workshop, tmp_path: Path) -> None:
    shop.doit("dataset")
    shop.killed_at_checkpoint("train:tower", range(1, 4))
    ran = shop.doit("train")
    assert "resuming at step" in ran.out + ran.err
    resumed = _adapter(shop).read_bytes()
    again = Workshop(shop.folder, tmp_path / "other")
    again.doit("train")
    assert _adapter(again).read_bytes() == resumed
