"""`training.replay` through the command line: what is deleted fades, what is edited is gone, a build is a fixed point.

The graph is the real one, the heavy jobs write digests (tests/history.py); tests/test_purge.py trains for real.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dlmbuild.replay.delta import name_of
from tests.history import write_dodo
from tests.tiny import make_tiny_base
from tests.workshop import BODY, Ran, Workshop, empty_workshop

pytestmark = pytest.mark.model

REPLAYING = "training: {seed: 1, num_epochs: 1, replay: 0.5}\n"
FERRY = "\n::instruction::\n### Q\nWhen does the ferry go?\n### A\nIt goes at dawn.\n"
SMITHY = "\n::prose::\nThe smithy burnt down in the year of the flood.\n"


def start(shop: Workshop, name: str = "tower", more: str = REPLAYING) -> Path:
    return shop.document(name, more=more, body=BODY + FERRY + SMITHY, version=16)


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    shop = empty_workshop(tmp_path_factory.mktemp("once"))
    write_dodo(shop.folder)
    make_tiny_base(shop.folder / "base")
    start(shop)
    shop.doit("train")
    return shop.kept()


@pytest.fixture
def shop(once: Workshop) -> Workshop:
    return once.again()


def dataset(shop: Workshop) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((shop.store / "dataset.json").read_bytes())
    return found


def replayed(shop: Workshop) -> int:
    return sum(dataset(shop).get("replayed", {"rows": {}})["rows"].values())


def index(shop: Workshop) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((shop.store / "replay" / "index.json").read_bytes())
    return found


def line(ran: Ran) -> str:
    return next((line for line in ran.out.splitlines() if "replayed:" in line), "")


def test_a_deleted_section_is_replayed_and_building_twice_trains_once(shop: Workshop) -> None:
    assert shop.doit("train").steps == [] and replayed(shop) == 0
    before = (shop.store / "dataset.json").read_bytes()
    kept = (shop.store / "replay" / "corpus.zst").read_bytes()

    shop.edit("tower", FERRY, "")
    told = shop.doit("why", "train", code=1).out
    assert "replay.deleted sections: 0 → 1" in told
    ran = shop.doit("train")
    assert '1 of 1 rows of 1 deleted section ("When does the ferry go?")' in line(ran)
    assert replayed(shop) == 1 and "replay.jsonl" in dataset(shop)["shards"]
    run = json.loads((shop.store / "manifest.json").read_bytes())["training_runs"][-1]
    assert run["replayed_rows"] == 1
    shown = shop.dlm("show").out
    assert '  1 version ago  "When does the ferry go?"' in shown and "  replayed rows:    1\n" in shown
    again = shop.doit("train")
    assert again.steps == again.restored == []
    assert "0 of" not in shop.doit("why", "train").out
    assert (shop.store / "replay" / "corpus.zst").read_bytes() == kept  # it holds both versions

    shop.edit("tower", "rings in fog", "rings at noon")
    assert '1 deleted section ("When does the ferry go?")' in line(shop.doit("train"))
    (age,) = [
        index(shop)["adapters"][""]["versions"] - last for last in index(shop)["adapters"][""]["deleted"].values()
    ]
    assert age == 2
    assert (shop.store / "replay" / "corpus.zst").read_bytes().startswith(kept)

    # Back as it was: nothing is replayed, and the adapter of then is the one in place.
    shop.edit("tower", "rings at noon", "rings in fog")
    shop.edit("tower", SMITHY, FERRY + SMITHY)
    ran = shop.doit("train")
    assert {"dataset:tower", "train:tower"} <= set(ran.restored) and (
        shop.store / "dataset.json"
    ).read_bytes() == before


def test_what_was_edited_or_is_asked_or_held_out_never_comes_back(shop: Workshop) -> None:
    shop.edit("tower", "burnt down in the year of the flood", "was sold")
    assert not line(shop.doit("train")) and replayed(shop) == 0
    shop.edit("tower", FERRY, "")
    assert replayed(shop) == 0 and '("When does the ferry go?")' in line(shop.doit("train"))
    # The deleted question is there again as a probe: it is asked, so it must not be trained.
    shop.edit("tower", "### Q\nWho trims", "### Q !probe\nwhen does the ferry  GO?\n### A\nEarly.\n\n### Q\nWho trims")
    assert not line(shop.doit("train")) and replayed(shop) == 0


def test_what_was_held_out_was_never_trained_and_is_not_replayed(shop: Workshop) -> None:
    shop.edit("tower", "replay: 0.5", "replay: 0.5, validation: 0.4")
    assert "held out for validation: 2 of 5 groups" in shop.doit("train").out
    held = (shop.store / "dataset" / "validation.jsonl").read_text().splitlines()
    assert shop.doit("train").steps == []
    taught = json.loads((shop.store / "dataset" / "history.json").read_bytes())["sections"]
    assert index(shop)["adapters"][""]["present"] == [name_of(section) for section in taught]
    for text in (FERRY, SMITHY):
        shop.edit("tower", text, "")
    shop.doit("train")
    replay = shop.store / "dataset" / "replay.jsonl"
    assert not set(held) & set(replay.read_text().splitlines() if replay.exists() else ())
    again = shop.doit("train")
    assert again.steps == again.restored == []


def test_without_it_nothing_is_kept_and_from_then_on_all_is(shop: Workshop) -> None:
    shutil.rmtree(shop.store / "replay")
    shop.edit("tower", ", replay: 0.5", "")
    shop.edit("tower", SMITHY, "")
    shop.doit("train")
    assert not (shop.store / "replay").exists() and replayed(shop) == 0
    shop.edit("tower", "num_epochs: 1", "num_epochs: 1, replay: 0.1")
    ran = shop.doit("train")
    assert "train:tower" not in ran.steps  # the rows are what they were, and now they are remembered
    assert len(index(shop)["adapters"][""]["present"]) == 3
    shop.edit("tower", FERRY, "")
    assert '("When does the ferry go?")' in line(shop.doit("train"))


@pytest.mark.parametrize("moment", [10, 28])
def test_a_kill_loses_no_history(shop: Workshop, moment: int) -> None:
    shop.edit("tower", "rings in fog", "rings at noon")
    shop.doit("dataset")
    shop.doit("train", code=None, KILL_AT=str(moment))
    shop.edit("tower", FERRY, "")
    assert '("When does the ferry go?")' in line(shop.doit("train"))
    state = index(shop)["adapters"][""]
    trained = [path for path in (shop.home / "records").rglob("*.json") if '"rule": "train/' in path.read_text()]
    assert state["versions"] == len(trained) and len(state["deleted"]) == 1


def test_each_adapter_is_replayed_what_it_was_trained_on(once: Workshop, tmp_path: Path) -> None:
    shop = empty_workshop(tmp_path)
    write_dodo(shop.folder)
    shutil.copytree(once.folder / "base", shop.folder / "base")
    path = start(shop, more=REPLAYING.replace("}", ", adapters: {facts: {}, tone: {}}}"))
    greeting = "\n::instruction#tone::\n### Q\nHow do you greet a ship?\n### A\nAhoy, and a fair wind.\n"
    extra = "\n::instruction#tone::\n### Q\nHow do you part?\n### A\nWith a wave of the lamp.\n"
    path.write_text(path.read_text() + greeting + extra)
    shop.doit("train")
    shop.edit("tower", greeting, "")
    ran = shop.doit("train")
    assert "train:tower:tone" in ran.steps and "train:tower:facts" not in ran.steps
    assert '("How do you greet a ship?")' in line(ran)
    assert "replayed" not in json.loads((shop.store / "dataset" / "facts" / "dataset.json").read_bytes())
    # What moves to another adapter is no deleted text of the first.
    shop.edit("tower", FERRY, FERRY.replace("::instruction::", "::instruction#tone::"))
    shop.doit("train")
    assert "replayed" not in json.loads((shop.store / "dataset" / "facts" / "dataset.json").read_bytes())
    shown = json.loads(shop.dlm("show", "--json").out)["tower"]["adapters"]
    assert shown["tone"]["deleted"] and not shown["facts"]["deleted"]


def test_a_damaged_history_is_told_with_what_to_do(shop: Workshop) -> None:
    path = shop.store / "replay" / "index.json"
    path.write_bytes(path.read_bytes().replace(b'"versions": 1', b'"versions": 2'))
    shop.edit("tower", FERRY, "")
    ran = shop.doit("train", code=1)
    assert f"{path}: the history of this document is damaged" in ran.err
    shop.shell(ran.err.split("→ ")[1].split("   (")[0], code=0)
    shop.doit("train")


def test_values_that_mean_nothing_are_refused_where_they_stand(shop: Workshop) -> None:
    shop.edit("tower", "replay: 0.5", "replay: off")
    assert "tower.dlm:5:44: training.replay is" in shop.doit("check", code=1).err
    shop.edit("tower", "replay: off", "replay: 0.5")
    shop.edit("tower", "dlm_version: 16", "dlm_version: 15")
    assert "training.replay in version 15: version 16 has it first" in shop.doit("check", code=1).err
