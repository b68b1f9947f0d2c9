"""`training.incremental: warm`: a training goes on from the adapter before it, on what changed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dlmbuild.build.warm import LONGEST_CHAIN
from tests.history import write_dodo
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


@pytest.fixture
def quick(shop: Workshop) -> Workshop:
    """The same, where the heavy jobs write digests of what they are given, and two trainings are a long chain."""
    write_dodo(shop.folder)
    dodo = shop.folder / "dodo.py"
    dodo.write_text(f"import dlmbuild.build.warm\ndlmbuild.build.warm.LONGEST_CHAIN = 2\n{dodo.read_text()}")
    return shop


def version(shop: Workshop) -> Path:
    folder = shop.store / "adapter"
    return folder / (folder / "current.txt").read_text().strip()


def weights(shop: Workshop) -> bytes:
    return (version(shop) / "adapter_model.safetensors").read_bytes()


def last_run(shop: Workshop) -> dict[str, Any]:
    """The last training in the manifest."""
    return dict(json.loads((shop.store / "manifest.json").read_bytes())["training_runs"][-1])


def test_a_training_goes_on_from_the_one_before(shop: Workshop, tmp_path: Path) -> None:
    told = shop.doit("train").out
    assert "trained from the start: no earlier training is known" in told
    whole, first = last_run(shop), weights(shop)
    assert whole["from_the_start"] == "no earlier training is known"

    shop.edit("tower", "Number 5 is a tern", "Number 5 is a gull")
    why = shop.doit("why", "train", code=1).out
    assert "dataset.json changed" in why and "parent adapter is new" in why
    shop.doit("dataset")
    other = shop.copied_to(tmp_path / "other")
    told = other.doit("train").out
    assert "goes on from v0001: 1 of 10 rows changed, 5 of the others go along in each epoch" in told
    shop.killed_at_checkpoint("train:tower", range(1, 5))
    ran = shop.doit("train")
    assert "resuming at step" in ran.out + ran.err
    assert weights(shop) == weights(other) != first

    warm = last_run(shop)
    assert (whole["steps"], warm["steps"]) == (2 * 5, 2 * 3)
    assert warm["warm"] == {"from": "v0001", "changed_rows": 1, "chain": 1}
    assert (version(shop).name, warm["adapter_version"]) == ("v0002", "v0002")
    adapter = json.loads((shop.store / "adapter" / "adapter.json").read_bytes())
    assert adapter["warm"] == {"changed_rows": 1, "chain": 1, "steps": 6}
    assert "v0001 (itself trained from the start), 1 changed rows" in shop.dlm("show", "tower").out
    assert shop.doit("train").steps == []
    assert "5 of 5 steps are up to date" in shop.doit("why", "train").out

    # What went on from another goes on elsewhere: a pack has no other to go on from.
    shop.doit("pack:tower")
    elsewhere = Workshop(tmp_path / "elsewhere", tmp_path / "other home")
    shutil.copytree(shop.folder / "base", elsewhere.folder / "base")
    elsewhere.dlm("unpack", str(shop.folder / "tower.dlm.pack"))
    assert "train:tower" in elsewhere.doit("train").restored and weights(elsewhere) == weights(shop)
    elsewhere.edit("tower", "Number 6 is a tern", "Number 6 is a gull")
    assert "goes on from v0001: 1 of 10 rows changed" in elsewhere.doit("train").out

    assert "trained from the start: it was asked for" in shop.doit("full=true", "train:tower").out
    assert weights(shop) not in (first, weights(other))
    assert shop.doit("train").steps == []  # and so it stays


def test_what_is_deleted_is_replayed_where_a_training_goes_on(shop: Workshop) -> None:
    ferry = "\n::instruction::\n### Q\nWhen does the ferry go?\n### A\nIt goes at dawn.\n"
    shop.edit("tower", "seed: 3", "seed: 3, replay: 0.5")
    shop.edit("tower", MORE, MORE + ferry)
    shop.doit("train")
    shop.edit("tower", ferry, "")
    told = shop.doit("train").out
    assert '1 of 1 rows of 1 deleted section ("When does the ferry go?")' in told
    assert "goes on from v0001: 0 of 11 rows changed, 5 of the others go along in each epoch" in told
    run = last_run(shop)
    assert (run["replayed_rows"], run["warm"]["changed_rows"], run["steps"]) == (1, 0, 2 * 3)
    assert shop.doit("train").steps == []

    shop.edit("tower", "Number 7 is a tern", "Number 7 is a gull")
    assert "goes on from v0002: 1 of 11 rows changed, 5 of the others" in shop.doit("train").out
    assert last_run(shop)["replayed_rows"] == 1
    shop.doit("full=true", "train")
    assert (last_run(shop)["replayed_rows"], last_run(shop)["steps"]) == (1, 2 * 6)


def test_an_edit_that_is_taken_back_and_made_again(quick: Workshop, tmp_path: Path) -> None:
    quick.doit("train")
    first = weights(quick)
    quick.edit("tower", "Number 5 is a tern", "Number 5 is a gull")
    assert "goes on from v0001" in quick.doit("train").out
    second = weights(quick)
    quick.edit("tower", "Number 5 is a gull", "Number 5 is a tern")
    assert quick.doit("train").restored == ["check:tower", "dataset:tower", "train:tower"]
    assert weights(quick) == first
    quick.edit("tower", "Number 5 is a tern", "Number 5 is a gull")
    assert "train:tower" in quick.doit("train").restored and weights(quick) == second

    # The database and the versions are only copies; without the object it is made again, from the same parent.
    (quick.folder / ".doit.db").unlink()
    shutil.rmtree(quick.store / "adapter" / "versions")
    assert "train:tower" in quick.doit("train").restored and weights(quick) == second
    for path in (quick.home / "objects").glob("*/*"):
        if path.read_bytes() == second:
            path.unlink()
    shutil.rmtree(quick.store / "adapter")
    assert "goes on from an adapter whose version is deleted: 1 of 10" in quick.doit("train").out
    assert weights(quick) == second

    # From the start it is what a document without the key makes, here and where nothing was ever built.
    quick.doit("full=true", "train")
    quick.edit("tower", "incremental: warm, ", "")
    assert "train:tower" not in quick.doit("train").steps
    fresh = Workshop(quick.folder, tmp_path / "fresh")
    fresh.doit("train")
    assert weights(fresh) == weights(quick) not in (first, second)


FULL = [
    ("seed: 3", "seed: 4", "more changed than the rows: training.seed: 3 → 4"),
    ("is a tern", "is an eider", "more than half of the rows changed: 7 of 10"),
    ("\n### Q\nWho is number 7?\n### A\nNumber 7 is a tern.\n", "", "1 rows went and 0 came"),
    ("is number 7?", "is number 9?", ""),
]


def test_when_it_begins_from_the_start(quick: Workshop) -> None:
    quick.doit("train")
    document = quick.folder / "tower.dlm"
    original, first = document.read_text(), weights(quick)
    for old, new, told in FULL:
        quick.edit("tower", old, new)
        ran = quick.doit("train")
        assert (f"trained from the start: {told}" if told else "goes on from v0001") in ran.out
        assert str(last_run(quick).get("from_the_start", "")).startswith(told)
        assert quick.doit("train").steps == []
        document.write_text(original)
        assert "train:tower" in quick.doit("train").restored and weights(quick) == first
    assert LONGEST_CHAIN == 8  # in earnest; here it is 2
    for number in (1, 2, 3):
        quick.edit("tower", f"Number {number} is a tern", f"Number {number} is a gull")
        told = quick.doit("train").out
        assert ("2 trainings have gone on from each other" in told) == (number == 3)
    quick.edit("tower", "Number 4 is a tern", "Number 4 is a gull")
    for path in (quick.home / "records").glob("*/*"):
        path.unlink()
    assert "trained from the start: no earlier training is known" in quick.doit("train").out
    quick.edit("tower", "Number 5 is a tern", "Number 5 is a gull")
    told = quick.dlm("--full", "train:tower").out
    assert "trained from the start: it was asked for" in told
    assert "full=maybe is not known" in quick.doit("full=maybe", "train", code=None).err


def test_preferences_are_trained_on_what_began_from_the_start(quick: Workshop) -> None:
    better = "\n::preference::\n### Prompt\na\n### Chosen\nb\n### Rejected\nc\n"
    quick.edit("tower", "Number 7 is a tern.\n", f"Number 7 is a tern.\n{better}")
    quick.doit("train")
    quick.edit("tower", "Number 5 is a tern", "Number 5 is a gull")
    assert "trained from the start: the document has preferences" in quick.doit("prefer").out
