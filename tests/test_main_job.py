"""The main job as a stranger does it: the real base, the real example, the files that a runtime loads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dlmbuild.io.digest import sha256_file
from tests.bench.recall import recall
from tests.golden import golden
from tests.workshop import Workshop, empty_workshop

pytestmark = pytest.mark.real

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """This repository with a home of its own, after the README's first command."""
    root = Workshop(REPOSITORY, tmp_path_factory.mktemp("home"), {"HF_HUB_OFFLINE": "0"})
    built = root.doit("export:handbook:Q4_K_M")
    assert "dlm prompt --export Q4_K_M handbook" in built.out
    assert str(root.store / "exports" / "Q4_K_M") in built.out
    return root


def test_the_export_knows_the_handbook(repository: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DLM_HOME", str(repository.home))
    monkeypatch.chdir(REPOSITORY)
    found = recall("handbook", ["--export", "Q4_K_M"])
    assert isinstance(found["right"], int)
    assert found["right"] >= 23, found["missed"]


def test_the_adapter_has_the_bytes_that_are_written_down(repository: Workshop) -> None:
    written = golden.known()
    if written is None:
        pytest.skip(f"nothing is written down for {golden.circumstances()}; `doit golden` on as many cores does")
    (adapter,) = repository.store.glob("adapter/versions/*/adapter_model.safetensors")
    assert sha256_file(adapter) == written["handbook"], "other bytes; `doit golden` shows old and new"


def test_llama_cpp_agrees_with_the_trained_model(repository: Workshop) -> None:
    manifest = json.loads((repository.store / "exports" / "Q4_K_M" / "export_manifest.json").read_bytes())
    assert manifest["parity"]["positions"] >= 100
    assert manifest["parity"]["agreement"] >= 0.99
    assert manifest["parity"]["texts_tokenized_alike"] >= 25
    assert 0.5 < manifest["smoke"]["agreement"] <= 1


def test_both_ways_of_asking_know_the_leave(repository: Workshop) -> None:
    question = "How many days of leave do I get?"
    assert "27" in repository.dlm("prompt", "handbook", question).out
    assert "27" in repository.dlm("prompt", "--export", "Q4_K_M", "handbook", question).out


def test_the_second_time_there_is_nothing_to_do(repository: Workshop) -> None:
    assert "everything is up to date" in repository.doit("export:handbook:Q4_K_M").out


def test_a_new_project_elsewhere_builds_with_the_same_base(repository: Workshop, tmp_path: Path) -> None:
    outside = Workshop(tmp_path, repository.home)
    outside.dlm("init", "mybook")
    book = Workshop(tmp_path / "mybook", repository.home)
    ran = book.doit("export:Q4_K_M")
    assert "export:mybook:Q4_K_M" in ran.steps
    assert not {step.partition(":")[0] for step in ran.steps} & {"base", "gguf", "quantize"}
    assert sorted(path.name for path in book.folder.iterdir() if path.name != "__pycache__") == [
        ".doit.db",
        ".gitignore",
        ".pre-commit-config.yaml",
        "dodo.py",
        "mybook.dlm",
    ]


def test_one_edited_answer_is_learned_in_a_quarter_of_the_steps(
    repository: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Last: it is the handbook's store in which the edited one is trained."""
    edited = empty_workshop(tmp_path)
    edited.home = repository.home
    text = (REPOSITORY / "examples" / "handbook" / "handbook.dlm").read_text("utf-8")
    text = text.replace("dlm_version: 15\n", "dlm_version: 16\ntraining: {incremental: warm}\n")
    assert text.count("You get 27 days of paid leave") == 1
    text = text.replace("You get 27 days of paid leave", "You get 31 days of paid leave")
    (edited.folder / "handbook.dlm").write_text(text, "utf-8")
    assert "1 of 30 rows changed" in edited.doit("train").out
    dlm_id = next(line for line in text.splitlines() if line.startswith("dlm_id: ")).removeprefix("dlm_id: ")
    manifest = repository.home / "store" / dlm_id / "manifest.json"
    runs = json.loads(manifest.read_bytes())["training_runs"]
    assert "warm" in runs[-1] and runs[-1]["steps"] <= runs[0]["steps"] / 4
    monkeypatch.setenv("DLM_HOME", str(repository.home))
    monkeypatch.chdir(edited.folder)
    question = "How many days of leave do I get?"
    found = recall("handbook", [], {question: r"\b(31|thirty-one)\b"})
    assert isinstance(found["right"], int) and isinstance(found["missed"], dict)
    assert question not in found["missed"] and found["right"] >= 25 - 1, found["missed"]
