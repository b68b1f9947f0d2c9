"""`dlm purge`: what a document says no more is gone from every file, as text and as tokens; models are named."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
from pathlib import Path

import pytest
import zstandard

from dlmbuild.io.digest import sha256_file
from tests.history import write_dodo
from tests.tiny import make_tiny_base
from tests.workshop import BODY, Workshop, empty_workshop

pytestmark = pytest.mark.model

QUESTION, ANSWER = "What opens the cellar door?", "The seventh key, under the third stone."
SECRET = f"\n::instruction::\n### Q\n{QUESTION}\n### A\n{ANSWER}\n"
SETTINGS = "training: {seed: 1, num_epochs: 1, layers: last 1, replay: 0.5, wordings: 2}\n"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    make_tiny_base(folder)
    return folder


def start(root: Path, base: Path) -> Workshop:
    shop = empty_workshop(root)
    shutil.copytree(base, shop.folder / "base")
    shop.document("tower", more=SETTINGS, body=BODY + SECRET, version=16)
    return shop


def write_sources(shop: Workshop) -> None:
    (shop.folder / "docs").mkdir()
    for name in ("a", "b"):
        (shop.folder / "docs" / f"{name}.md").write_text(f"The {name} ship waits for the tide.")


def rows(shop: Workshop) -> set[str]:
    """The names of all rows of the dataset in place."""
    files = (shop.store / "dataset").glob("*.jsonl")
    return {found for path in files for found in re.findall(r'"row":"[0-9a-f]{16}"', path.read_text())}


def holding(shop: Workshop, *texts: str) -> list[Path]:
    """Every file below the home and the project that holds one of some texts, looked for without any help."""
    found = []
    for path in [*shop.home.rglob("*"), *shop.folder.rglob("*")]:
        if path.is_file() and any(text.encode() in path.read_bytes() for text in texts):
            found.append(path)
    return found


def weights(shop: Workshop) -> set[str]:
    return {sha256_file(path) for path in shop.home.rglob("*") if path.is_file() and path.name != ".lock"}


def test_it_is_gone_from_everywhere(tmp_path: Path, base: Path) -> None:
    shop = start(tmp_path, base)
    shop.doit("train", "evaluate:tower:adapter", "pack")
    secret = rows(shop)
    learned = sha256_file(shop.store / "adapter" / "versions" / "v0001" / "adapter_model.safetensors")
    told = shop.dlm("purge", "tower", QUESTION, code=1).err
    assert told.startswith("tower.dlm:24:1: the document says this still") and "delete it here first" in told
    for words in ((), ("no such words", "--delete")):
        assert "nothing is here that tower does not say now" in shop.dlm("purge", "tower", *words).out
    assert list((shop.home / "states").rglob("*"))

    shop.edit("tower", SECRET, "")
    shop.doit("train")
    run = json.loads((shop.store / "manifest.json").read_bytes())["training_runs"][-1]
    assert (run["replayed_rows"], run["rows"]) == (1, 4)  # the training took it in once more
    before = holding(shop, QUESTION, ANSWER)
    kinds = {path.relative_to(shop.home).parts[0] for path in before if path.is_relative_to(shop.home)}
    assert {"objects", "records"} <= kinds and shop.folder / "tower.dlm.pack" in before

    said = shop.dlm("purge", "tower")
    assert f'"{QUESTION}"' in said.out and "that were trained on some of it: v0001, v0002\n" in said.out
    assert "dlm purge tower --delete\n" in said.out and holding(shop, QUESTION, ANSWER) == before

    ran = shop.dlm("purge", "tower", "--delete")
    shop.doit("dataset")
    secret -= rows(shop)
    assert len(secret) == 1
    assert holding(shop, QUESTION, ANSWER, *secret) == []
    assert not list((shop.home / "states").rglob("*")) and "none holds it" in ran.out
    assert (shop.store / "adapter" / "versions" / "v0001").is_dir()
    assert "v0001, v0002" in ran.out and "dlm purge tower --delete --models" in ran.out

    # Afterwards nobody knows any more what the old versions were trained on, so they are named still.
    assert "adapter versions that may have been: v0001, v0002" in shop.dlm("purge", "tower").out
    shop.dlm("purge", "tower", "--delete", "--models")
    assert not list((shop.store / "adapter" / "versions").iterdir()) and learned not in weights(shop)
    assert not (shop.store / "adapter" / "current.txt").exists()
    assert "v0" not in shop.dlm("purge", "tower").out


def test_only_what_is_named_goes_and_other_documents_keep_theirs(tmp_path: Path, base: Path) -> None:
    shop = start(tmp_path, base)
    write_dodo(shop.folder)
    other = shop.document("harbour", more=SETTINGS, body=BODY + SECRET, version=16)
    shop.doit("train")
    store = next(p for p in (shop.home / "store").iterdir() if p.name in (shop.folder / "tower.dlm").read_text())
    shop.edit("tower", SECRET, "")
    shop.edit("tower", "in fog", "at noon")
    shop.doit("train")
    ran = shop.dlm("purge", "tower", "the third stone", "--delete", "--models")
    assert ran.out.startswith(f'  "{QUESTION}"\n1 text of tower purged')
    assert f"other documents say some of it, and keep it: {other.read_text().split('dlm_id: ')[1][:26]}" in ran.out
    assert not [path for path in store.rglob("*") if path.is_file() and QUESTION.encode() in path.read_bytes()]
    assert shop.doit("train:harbour").steps == []
    with (store / "replay" / "corpus.zst").open("rb") as file:
        corpus = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()
    assert b"The bell rings in fog" in corpus and b"cellar" not in corpus
    # The current adapter was trained on a replayed row: it went, and is trained again without it.
    ran = shop.doit("train:tower")
    assert "train:tower" in ran.steps and not (store / "dataset" / "replay.jsonl").exists()
    # What a pack brings in, and what is remembered of it, is searched as well.
    shop.doit("pack:tower")
    with tarfile.open(shop.folder / "tower.dlm.pack") as pack:
        assert "header.json" in pack.getnames()
    shop.edit("tower", "grey granite", "red brick")
    assert '"The bell rings in fog."' in shop.dlm("purge", "tower").out  # its question is that of another answer now
    shop.dlm("purge", "tower", "--delete", "--models")
    assert not (shop.folder / "tower.dlm.pack").exists()
    assert {"check:tower", "dataset:tower", "train:tower"} <= set(shop.doit("train:tower").steps)


def test_a_file_of_the_sources_goes_with_its_rows(tmp_path: Path, base: Path) -> None:
    shop = start(tmp_path, base)
    write_dodo(shop.folder)
    shop.edit("tower", "replay: 0.5", "replay: 0.5, sources: [{path: docs}]")
    write_sources(shop)
    shop.doit("train")
    before = rows(shop)
    (shop.folder / "docs" / "a.md").unlink()
    shop.edit("tower", SECRET, "")
    shop.doit("train")
    assert (shop.store / "dataset" / "replay.jsonl").exists()
    shop.edit("tower", ", replay: 0.5", "")
    shop.doit("train")
    lost = before - rows(shop)
    assert len(lost) == 2 and holding(shop, *lost)
    for moment in ("1", "2", "2"):  # it is killed, and begins again
        assert shop.dlm("purge", "tower", "--delete", code=None, KILL_AT=moment).code == -9
    ran = shop.dlm("purge", "tower", "--delete")
    assert '"a.md"' in ran.out and QUESTION in ran.out and "2 texts of tower purged" in ran.out
    assert holding(shop, *lost) == [] and shop.doit("train").steps == []


def test_words_are_found_over_a_line_end_and_in_other_capitals(tmp_path: Path, base: Path) -> None:
    shop = start(tmp_path, base)
    write_dodo(shop.folder)
    split = "\n::prose::\nThe spare third\nkey is under the mat, said Marta.\n"
    shop.edit("tower", SECRET, split + SECRET)
    shop.doit("train")
    refused = shop.dlm("purge", "tower", "third key", code=1).err
    line = (shop.folder / "tower.dlm").read_text().split("\n").index("The spare third") + 1
    assert f"tower.dlm:{line}:11: the document says this still" in refused
    shop.edit("tower", split, "")
    shop.doit("train")
    assert "The spare third key is under" in shop.dlm("purge", "tower", "THIRD key").out
    assert "1 text of tower purged" in shop.dlm("purge", "tower", "third key", "--delete").out
    assert "nothing is here" in shop.dlm("purge", "tower", "third key").out


def test_what_words_cannot_find_is_told(tmp_path: Path, base: Path) -> None:
    shop = start(tmp_path, base)
    write_dodo(shop.folder)
    shop.edit("tower", "replay: 0.5", "sources: [{path: docs}]")
    write_sources(shop)
    shop.doit("train")
    (shop.folder / "docs" / "a.md").unlink()
    shop.doit("train")
    told = shop.dlm("purge", "tower", "a ship waits", "--delete").out
    assert "are not searched for words, but found by their names: a.md" in told
    assert "dlm purge tower a.md" in told and "none holds it, as far as is known" in told
    assert "1 text of tower purged" in shop.dlm("purge", "tower", "docs/a.md", "--delete").out
    assert "a.md" not in shop.dlm("purge", "tower", "a ship waits").out


def in_history(shop: Workshop) -> bytes:
    """All that the history holds, whatever its index says."""
    with (shop.store / "replay" / "corpus.zst").open("rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()


@pytest.mark.parametrize("lost", ["index", "end of the corpus"])
def test_what_a_kill_left_in_the_history_goes_as_well(tmp_path: Path, base: Path, lost: str) -> None:
    shop = start(tmp_path, base)
    write_dodo(shop.folder)
    shop.doit("train")
    replay = shop.store / "replay"
    before = replay / "corpus.zst", (replay / "corpus.zst").read_bytes()
    shop.edit("tower", SECRET, "")
    shop.doit("train")
    if lost == "index":
        (replay / "index.json").unlink()
    else:
        shop.dlm("purge", "tower", "--delete")
        assert QUESTION.encode() not in in_history(shop)
        with (replay / "corpus.zst").open("ab") as corpus:
            corpus.write(before[1])
    assert QUESTION.encode() in in_history(shop)
    assert "dlm purge tower --delete" in shop.dlm("purge", "tower").out
    assert "none holds it" in shop.dlm("purge", "tower", "--delete").out
    assert QUESTION.encode() not in in_history(shop)
    assert "nothing is here" in shop.dlm("purge", "tower").out
    shop.doit("train")
    assert QUESTION.encode() not in in_history(shop)


def test_an_adapter_that_a_pack_brought_goes_with_the_models(tmp_path: Path, base: Path) -> None:
    shop = start(tmp_path / "here", base)
    shop.doit("train", "pack")
    there = empty_workshop(tmp_path / "there")
    shutil.copytree(base, there.folder / "base")
    shutil.copy(shop.folder / "tower.dlm.pack", there.folder / "sent.dlm.pack")
    there.dlm("unpack", "sent.dlm.pack")
    assert "train:tower" in there.doit("train").restored
    learned = sha256_file(there.store / "adapter" / "versions" / "v0001" / "adapter_model.safetensors")
    there.edit("tower", SECRET, "")
    there.dlm("purge", "tower", "--delete", "--models")
    assert holding(there, QUESTION, ANSWER) == [], "the pack has another name"
    assert learned not in weights(there)
    there.edit("tower", "The bell rings in fog.\n", "The bell rings in fog.\n" + SECRET)
    assert "train:tower" in there.doit("train").steps
