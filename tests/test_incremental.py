"""`training.incremental: warm`: a training goes on from the adapter before it, on what changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import make_tiny_base
from tests.workshop import BODY, Workshop

pytestmark = pytest.mark.model

MORE = "".join(f"\n### Q\nWho is number {n}?\n### A\nNumber {n} is a tern.\n" for n in range(1, 8))
WARM = "training: {incremental: warm, num_epochs: 2, micro_batch_size: 2, grad_accum: 1, seed: 3}\n"


@pytest.fixture
def shop(workshop: Workshop) -> Workshop:
    make_tiny_base(workshop.folder / "base")
    workshop.document("tower", more=WARM, body=BODY + MORE)
    workshop.edit("tower", "dlm_version: 15", "dlm_version: 16")
    return workshop


def version(shop: Workshop) -> Path:
    folder = shop.store / "adapter"
    return folder / (folder / "current.txt").read_text().strip()


def weights(shop: Workshop) -> bytes:
    return (version(shop) / "adapter_model.safetensors").read_bytes()


def run(shop: Workshop) -> dict[str, Any]:
    """The last training in the manifest."""
    return dict(json.loads((shop.store / "manifest.json").read_bytes())["training_runs"][-1])


def test_a_history_of_edits(shop: Workshop) -> None:
    told = shop.doit("train").out
    assert "trained from the start: no earlier training is known" in told
    first = weights(shop)
    whole = run(shop)
    assert whole["from_the_start"] == "no earlier training is known"

    shop.edit("tower", "Number 5 is a tern", "Number 5 is a gull")
    why = shop.doit("why", "train", code=1).out
    assert "dataset.json changed" in why and "parent adapter is new" in why
    told = shop.doit("train").out
    assert "goes on from v0001: 1 of 10 rows changed, 5 of the others go along in each epoch" in told
    warm = run(shop)
    assert warm["warm"] == {"from": "v0001", "changed_rows": 1, "chain": 1}
    assert (whole["steps"], warm["steps"]) == (2 * 5, 2 * 3)
    assert (version(shop).name, warm["adapter_version"]) == ("v0002", "v0002")
    adapter = json.loads((shop.store / "adapter" / "adapter.json").read_bytes())
    assert adapter["warm"] == {"changed_rows": 1, "chain": 1, "steps": 6}
    assert "v0001, 1 changed rows; trained from the start" in shop.dlm("show", "tower").out
    second = weights(shop)
    assert shop.doit("train").steps == []
    assert "5 of 5 steps are up to date" in shop.doit("why", "train").out

    shop.edit("tower", "Number 5 is a gull", "Number 5 is a tern")
    assert shop.doit("train").restored == ["check:tower", "dataset:tower", "train:tower"]
    assert weights(shop) == first
    shop.edit("tower", "Number 5 is a tern", "Number 5 is a gull")
    assert "train:tower" in shop.doit("train").restored
    assert weights(shop) == second

    rebuilt = shop.doit("full=true", "train:tower").out
    assert "trained from the start: it was asked for" in rebuilt
    assert weights(shop) not in (first, second)
    from_scratch = weights(shop)
    assert shop.doit("train").steps == []
    shop.edit("tower", "incremental: warm, ", "")
    assert "train:tower" not in shop.doit("train").steps  # what a document without it is made from is the same
    assert weights(shop) == from_scratch


FULL = [
    ("another setting", "seed: 3", "seed: 4", "more changed than the rows: training.seed: 3 → 4"),
    ("most rows", "is a tern", "is an eider", "more than half of the rows changed: 7 of 10"),
    ("a deletion", "\n### Q\nWho is number 7?\n### A\nNumber 7 is a tern.\n", "", "1 rows went and 0 came"),
]


def test_when_it_begins_from_the_start(shop: Workshop) -> None:
    shop.doit("train")
    original = (shop.folder / "tower.dlm").read_text()
    first = weights(shop)
    for what, old, new, told in FULL:
        shop.edit("tower", old, new)
        ran = shop.doit("train")
        assert f"trained from the start: {told}" in ran.out, what
        assert run(shop)["from_the_start"].startswith(told)
        assert shop.doit("train").steps == []
        (shop.folder / "tower.dlm").write_text(original)
        assert "train:tower" in shop.doit("train").restored and weights(shop) == first, what
    shop.edit("tower", "Number 2 is a tern", "Number 2 is a gull")
    shop.doit("dataset")
    for path in (shop.home / "records").glob("*/*"):
        path.unlink()
    assert "trained from the start: no earlier training is known" in shop.doit("train").out
    assert "full=maybe is not known" in shop.doit("full=maybe", "train", code=None).err
    assert "it was asked for" in shop.dlm("--full", "train:tower").out or shop.doit("train").steps == []


def test_what_was_made_is_deleted_and_made_again(shop: Workshop) -> None:
    shop.doit("train")
    shop.edit("tower", "Number 2 is a tern", "Number 2 is a gull")
    shop.doit("train")
    made = weights(shop)
    (shop.folder / ".doit.db").unlink()
    shutil.rmtree(shop.store / "adapter" / "versions")
    assert "train:tower" in shop.doit("train").restored and weights(shop) == made
    record = json.loads(_record(shop).read_bytes())
    ours = shop.home / "objects" / record["outputs"]["adapter_model.safetensors"][:2]
    (ours / record["outputs"]["adapter_model.safetensors"]).unlink()
    shutil.rmtree(shop.store / "adapter")
    told = shop.doit("train").out  # from the same parent, which is still an object
    assert "goes on from an adapter whose version is deleted: 1 of 10 rows changed" in told and weights(shop) == made


def test_a_killed_training_ends_with_the_bytes_of_one_that_was_not(shop: Workshop, tmp_path: Path) -> None:
    shop.edit("tower", "num_epochs: 2", "num_epochs: 3")
    shop.doit("train")
    shop.edit("tower", "Number 2 is a tern", "Number 2 is a gull")
    shop.doit("dataset")
    other = shop.copied_to(tmp_path / "other")
    other.doit("train")
    shop.killed_at_checkpoint("train:tower", range(2, 8))
    assert "resuming at step" in (ran := shop.doit("train")).out + ran.err
    assert weights(shop) == weights(other)
    assert run(shop)["steps"] == 9


def test_a_chain_has_an_end(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.doit("train")
    for number in range(1, 10):
        shop.edit(
            "tower",
            "Who is number 7?" if number == 1 else f"Who, {number - 1}, is number 7?",
            f"Who, {number}, is number 7?",
        )
        told = shop.doit("train").out
        assert ("8 trainings have gone on from each other" in told) == (number == 9)
    assert "warm" not in run(shop)


def _record(shop: Workshop) -> Path:
    key = json.loads((shop.store / "built.json").read_bytes())["train"]
    return shop.home / "records" / key[:2] / f"{key}.json"
