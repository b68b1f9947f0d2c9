"""`doit why` says what `doit` then does, on edits of every kind, and names the cause in the user's words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from dlmbuild.build.why import why
from dlmbuild.io.digest import sha256_file
from tests.history import write_dodo
from tests.tiny import make_tiny_base
from tests.workshop import Workshop, empty_workshop

pytestmark = pytest.mark.model

Edit = Callable[[Workshop], object]


def _settings(more: str) -> Edit:
    return lambda w: w.edit("tower", "dlm_version: 15", f"dlm_version: 15\n{more}")


def _damage(name: str) -> Edit:
    def damage(w: Workshop) -> None:
        path = w.store / name
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:-1] + b"?")

    return damage


def _lose_the_base_and_edit(w: Workshop) -> None:
    shutil.rmtree(w.home / "bases")
    w.edit("tower", "rings in fog", "rings at noon")


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    shop = empty_workshop(tmp_path_factory.mktemp("once"))
    write_dodo(shop.folder)
    make_tiny_base(shop.folder / "base")
    shop.document("tower")
    shop.doit("export:Q4_K_M")
    return shop.kept()


@pytest.fixture
def shop(once: Workshop) -> Workshop:
    """A project whose heavy jobs only write digests, built to Q4_K_M."""
    return once.again()


@pytest.mark.parametrize(
    ("edit", "cause"),
    [
        (lambda w: None, ""),
        (_settings("# only a comment"), "nothing follows"),
        (lambda w: w.edit("tower", "\n::instruction", "\n\n\n::instruction"), "nothing follows"),
        (
            lambda w: w.edit("tower", "rings in fog", "rings at noon"),
            'section 2 (line 10).pairs[1].answer: "The bell rings in fog." → "The bell rings at noon."',
        ),
        (lambda w: w.edit("tower", "grey granite", "red brick"), "section 1 (line 6).text:"),
        (_settings("training: {num_epochs: 2}"), 'training.num_epochs: "auto" → 2'),
        (_settings("system_prompt: Be short."), 'system_prompt: null → "Be short."'),
        (_settings("export: {default_temperature: 0.7}"), "export.default_temperature: null → 0.7"),
        (_damage("exports/Q4_K_M/Modelfile"), "Modelfile was changed after it was built"),
        (_damage("adapter/versions/v0001/adapter_model.safetensors"), "was changed after it was built"),
        (_damage("cache/smoke.Q4_K_M.json"), "was changed after it was built"),
        (lambda w: (w.store / "dataset.json").unlink(), "dataset.json is missing"),
        (lambda w: (w.folder / ".doit.db").unlink(), ""),
        (_lose_the_base_and_edit, "whose result is kept"),
    ],
    ids=[
        "nothing",
        "comment",
        "blank lines",
        "answer",
        "prose",
        "training field",
        "system prompt",
        "export field",
        "damaged export",
        "damaged adapter",
        "damaged report",
        "missing dataset",
        "lost database",
        "base that is restored",
    ],
)
def test_why_agrees_with_the_build_that_follows(shop: Workshop, edit: Edit, cause: str) -> None:
    edit(shop)
    said = shop.doit("why", "--json", "--all", "export:Q4_K_M", code=None)
    findings = {finding["task"]: finding for finding in json.loads(said.out)}
    did = shop.doit("export:Q4_K_M")
    verdicts = {task: finding["verdict"] for task, finding in findings.items()}
    assert {task for task in did.steps if verdicts[task] not in ("run", "maybe")} == set()
    assert {task for task in did.restored if verdicts[task] not in ("restore", "maybe")} == set()
    for task, verdict in verdicts.items():
        if verdict == "run":
            assert task in did.steps
        elif verdict == "restore":
            assert task in did.restored
        elif verdict == "ok":
            assert task not in did.steps + did.restored
    assert said.code == (1 if set(verdicts.values()) != {"ok"} else 0)
    assert cause in "\n".join(cause for finding in findings.values() for cause in finding["causes"])
    assert shop.doit("why", "export:Q4_K_M").out == f"{len(findings)} of {len(findings)} steps are up to date\n"


def test_why_builds_nothing(shop: Workshop) -> None:
    shop.edit("tower", "rings in fog", "rings at noon")
    before = {path: path.stat().st_mtime_ns for path in shop.home.rglob("*") if path.is_file()}
    shop.doit("why", code=1)
    after = {path: path.stat().st_mtime_ns for path in shop.home.rglob("*") if path.is_file()}
    changed = {path.name for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed <= {"stat.sqlite", "stat.sqlite-wal", "stat.sqlite-shm"} | {
        path.name for path in after.keys() - before.keys() if path.parent.name == "headers"
    }


def test_an_edit_that_is_taken_back_is_told_as_what_it_is(built: Workshop) -> None:
    built.edit("tower", "in fog", "at noon")
    built.doit("dataset")
    built.edit("tower", "at noon", "in fog")
    told = built.doit("why", "dataset", code=None).out
    assert "made from what an earlier build was made from" in told and "was changed" not in told


def test_it_knows_both_phases_of_a_training(shop: Workshop) -> None:
    path = shop.folder / "tower.dlm"
    path.write_text(path.read_text() + "\n::preference::\n### Prompt\nWho?\n### Chosen\nYou.\n### Rejected\nMe.\n")
    shop.doit("prefer")
    shop.edit("tower", "in fog", "at noon")
    shop.doit("prefer")
    shop.edit("tower", "at noon", "in fog")
    said = json.loads(shop.doit("why", "--json", "prefer", code=1).out)
    assert {finding["task"]: finding["verdict"] for finding in said}["train:tower"] == "restore"
    assert "train:tower" in shop.doit("prefer").restored


def test_a_copy_that_is_gone_asks_for_nothing_while_what_was_made_of_it_is_whole(shop: Workshop) -> None:
    weights = shop.store / "adapter" / "versions" / "v0001" / "adapter_model.safetensors"
    digest = sha256_file(weights)
    (shop.home / "objects" / digest[:2] / digest).unlink()
    assert "steps are up to date" in shop.doit("why", "export:Q4_K_M").out
    assert not shop.doit("export:Q4_K_M").steps


def test_what_cannot_be_read_is_told_in_words(tmp_path: Path) -> None:
    def state() -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "model.safetensors"))

    outputs = SimpleNamespace(targets={})
    step = SimpleNamespace(name="base:b", inputs={}, reads=(), outputs=outputs, state=state)
    task = SimpleNamespace(name="base:b", meta={"step": step}, task_dep=[], actions=[state])
    (finding,) = why({"base:b": task}, ["base:b"])
    assert finding.verdict == "fail"
    assert f"{tmp_path}/model.safetensors: the file cannot be read: Permission denied" in finding.causes[0]
