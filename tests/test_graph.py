"""The whole graph through `doit`, on a small random model: what is built, what is left alone, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.tiny import make_tiny_base
from tests.workshop import Workshop

pytestmark = pytest.mark.model

AFTER_TRAINING = [
    *("train:tower", "imatrix:tower", "merge:tower:Q4_K_M", "parity:tower", "smoke:tower:Q4_K_M"),
    "export:tower:Q4_K_M",
]
TIMED = ("manifest.json", "metrics.sqlite")
"""What tells the story of the builds, with times."""


def test_a_build_makes_everything_that_a_runtime_loads(built: Workshop) -> None:
    export = built.store / "exports" / "Q4_K_M"
    assert sorted(path.name for path in export.iterdir()) == [
        "Modelfile",
        "README.md",
        "adapter.gguf",
        "base.Q4_K_M.gguf",
        "export_manifest.json",
        "llama-server.sh",
        "model.Q4_K_M.gguf",
    ]
    version = built.store / "adapter" / (built.store / "adapter" / "current.txt").read_text().strip()
    assert sorted(path.name for path in version.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
        "pinned_versions.json",
        "training_run.json",
        "training_state.pt",
        "training_state.pt.sha256",
    ]
    manifest = json.loads((export / "export_manifest.json").read_bytes())
    assert manifest["parity"]["agreement"] >= 0.99
    assert set(manifest["files"]) == {path.name for path in export.iterdir()} - {"export_manifest.json"}
    assert (built.store / "dlm.lock").exists()
    assert len(json.loads((built.store / "manifest.json").read_bytes())["training_runs"]) == 1
    config = json.loads((version / "adapter_config.json").read_bytes())
    assert config["target_modules"] == sorted(config["target_modules"])
    assert "/" not in config["base_model_name_or_path"]


def test_again_means_nothing_to_do_and_nothing_heavy_imported(built: Workshop) -> None:
    assert built.doit("export:Q4_K_M").steps == []  # it reads the files that have been put back
    again = built.doit("export:Q4_K_M", PYTHONPROFILEIMPORTTIME="1")
    assert "everything is up to date" in again.out
    assert again.steps == again.restored == []
    imported = {line.rpartition("|")[2].strip() for line in again.err.splitlines() if line.startswith("import time:")}
    assert "doit" in imported
    assert not imported & {
        "torch",
        "transformers",
        "trl",
        "peft",
        "numpy",
        "pydantic",
        "ruamel.yaml",
        "rich",
        "filelock",
    }


def test_an_edited_answer_trains_again_and_leaves_the_base_alone(built: Workshop) -> None:
    built.edit("tower", "The bell rings in fog.", "The bell rings at noon.")
    assert sorted(built.doit("export:Q4_K_M").steps) == sorted(["check:tower", "dataset:tower", *AFTER_TRAINING])
    # Taken back, the earlier adapter and export come back without training.
    built.edit("tower", "The bell rings at noon.", "The bell rings in fog.")
    back = built.doit("export:Q4_K_M")
    assert back.steps == []
    assert "train:tower" in back.restored
    assert (built.store / "adapter" / "current.txt").read_text() == "versions/v0001\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("dlm_version: 15", "# a comment\ndlm_version: 15"),
        ("\n::instruction::", "\n\n\n::instruction::"),
        ("granite.", "granite.   "),
    ],
    ids=["comment", "blank lines", "trailing spaces"],
)
def test_an_edit_that_says_nothing_new_ends_at_check(built: Workshop, old: str, new: str) -> None:
    built.edit("tower", old, new)
    assert built.doit("export:Q4_K_M").steps == ["check:tower"]


def test_another_quantisation_runs_the_quantiser_and_what_follows(built: Workshop) -> None:
    steps = built.doit("export:Q8_0").steps
    assert steps[0].startswith("quantize:file-base-") and steps[0].endswith(":Q8_0")
    assert steps[1:] == ["merge:tower:Q8_0", "smoke:tower:Q8_0", "export:tower:Q8_0"]
    built.doit("export:tower:Q8_0")
    assert (built.store / "exports" / "Q8_0" / "model.Q8_0.gguf").exists()


def test_an_unusual_quantisation_has_tasks_where_it_is_asked_for(built: Workshop) -> None:
    assert "Q3_K_M" not in built.doit("list", "--all").out
    steps = built.doit("export:Q3_K_M").steps
    assert steps[0].startswith("quantize:file-base-") and steps[0].endswith(":Q3_K_M")
    assert steps[1:] == ["merge:tower:Q3_K_M", "smoke:tower:Q3_K_M", "export:tower:Q3_K_M"]
    assert built.doit("export:tower:Q3_K_M").steps == []
    folder = built.store / "exports" / "Q3_K_M"
    tensors = json.loads((folder / "export_manifest.json").read_bytes())["smoke"]["tensors"]
    assert tensors["fallbacks"] == sum(count for kind, count in tensors["types"].items() if kind != "F32")
    built.edit("tower", "base_model:", "export: {default_quant: IQ4_NL}\nbase_model:")
    assert "export:tower:IQ4_NL" in built.doit("list", "--all").out
    assert "model.Q3_K_M.gguf" in built.doit("clean").out and not folder.exists()


def test_export_settings_and_system_prompt_reach_the_modelfile(built: Workshop) -> None:
    built.edit("tower", "dlm_version: 15", "dlm_version: 15\nexport: {default_temperature: 0.5}")
    assert built.doit("export:Q4_K_M").steps == ["check:tower", "export:tower:Q4_K_M"]
    modelfile = (built.store / "exports" / "Q4_K_M" / "Modelfile").read_text()
    assert "PARAMETER temperature 0.5\n" in modelfile
    built.edit("tower", "dlm_version: 15", "dlm_version: 15\nsystem_prompt: Answer like a keeper.")
    assert "train:tower" in built.doit("export:Q4_K_M").steps
    modelfile = (built.store / "exports" / "Q4_K_M" / "Modelfile").read_text()
    assert 'SYSTEM """Answer like a keeper."""\n' in modelfile


def test_a_renamed_document_and_a_moved_project_are_not_trained_again(built: Workshop) -> None:
    (built.folder / "tower.dlm").rename(built.folder / "lighthouse.dlm")
    built.folder.rename(built.folder.with_name("elsewhere"))
    moved = Workshop(built.folder.with_name("elsewhere"), built.home)
    ran = moved.doit("export:Q4_K_M")
    assert ran.steps == []
    assert not any(step.startswith("train") for step in ran.restored)


def test_a_lost_database_and_touched_files_change_nothing(built: Workshop) -> None:
    (built.folder / ".doit.db").unlink()
    for path in [*built.folder.rglob("*"), *built.store.rglob("*")]:
        os.utime(path)
    ran = built.doit("export:Q4_K_M")
    assert ran.steps == ran.restored == []


def test_damaged_and_deleted_outputs_are_found_and_restored(built: Workshop) -> None:
    weights = built.store / "adapter" / "versions" / "v0001" / "adapter_model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    (built.store / "exports" / "Q4_K_M" / "model.Q4_K_M.gguf").unlink()
    ran = built.doit("export:Q4_K_M")
    assert ran.steps == []
    assert sorted(ran.restored) == ["export:tower:Q4_K_M", "train:tower"]
    current = built.store / "adapter" / (built.store / "adapter" / "current.txt").read_text().strip()
    assert (current / "adapter_model.safetensors").read_bytes() == good


def test_clean_removes_exports_and_keeps_training(built: Workshop) -> None:
    built.doit("export:Q8_0")
    built.doit("clean")
    assert not (built.store / "exports").exists()
    assert (built.store / "adapter" / "current.txt").exists()
    ran = built.doit("export:Q4_K_M")
    assert (ran.steps, ran.restored) == ([], ["export:tower:Q4_K_M"])


def test_forget_never_costs_a_training(built: Workshop) -> None:
    built.doit("forget")
    assert built.doit("export:Q4_K_M").steps == []


def test_a_relative_base_starts_at_its_document(built: Workshop) -> None:
    (built.folder / "dodo.py").write_text(
        'from dlmbuild.rules import project\nglobals().update(project("*.dlm", "sub/*.dlm"))\n'
    )
    (built.folder / "sub").mkdir()
    make_tiny_base(built.folder / "sub" / "base", layers=1)
    built.document("deep").rename(built.folder / "sub" / "deep.dlm")
    built.doit("plan:deep")
    facts = [json.loads(path.read_bytes()) for path in (built.home / "bases").glob("*/base.json")]
    assert 1 in [fact["layers"] for fact in facts]


def test_two_documents_share_one_base(built: Workshop) -> None:
    built.document("harbour", body="Ships wait behind the breakwater until the wind turns.\n")
    ran = built.doit("train")
    assert ran.steps == ["check:harbour", "dataset:harbour", "train:harbour"]
    assert ran.restored == ["plan:harbour"]  # the same settings on the same base: the same plan
    listed = built.doit("list", "--all").out
    assert "export:harbour:Q4_K_M" in listed and "export:tower:Q4_K_M" in listed


def test_a_broken_document_fails_with_all_its_mistakes_and_the_others_are_built(built: Workshop) -> None:
    (built.folder / "broken.dlm").write_text("---\ndlm_id: 123\ndlm_version: 15\n---\n::instructoin::\n")
    ran = built.dlm("run", "--continue", "export:Q4_K_M", code=1)
    assert "broken.dlm:2:9:" in ran.err
    assert "base_model" in ran.err
    assert "broken.dlm:5:3:" in ran.err and "::instruction" in ran.err
    assert "Traceback" not in ran.err
    assert built.doit("export:tower:Q4_K_M").steps == []


def test_a_build_killed_in_training_carries_on_and_ends_the_same(built: Workshop) -> None:
    digest = json.loads((built.store / "adapter" / "adapter.json").read_bytes())["files"]
    shutil.rmtree(built.home / "records")
    shutil.rmtree(built.store)
    process = built.start("doit", "train", err=subprocess.DEVNULL, alone=True)
    assert process.stdout is not None
    for line in process.stdout:
        if "train:tower  training" in line:
            break
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    ran = built.doit("train")
    assert "train:tower" in ran.steps
    assert not any(step.startswith("base:") for step in ran.steps)
    assert json.loads((built.store / "adapter" / "adapter.json").read_bytes())["files"] == digest
    assert not list(built.home.rglob("*.staging"))


def test_a_training_killed_between_checkpoints_resumes_to_the_same_bytes(built: Workshop, tmp_path: Path) -> None:
    built.edit(
        "tower", "dlm_version: 15", "dlm_version: 15\ntraining: {num_epochs: 40, lora_dropout: 0.1, grad_accum: 1}"
    )
    whole = built.copied_to(tmp_path / "whole")
    whole.doit("train")
    built.killed_at_checkpoint("train", range(15, 80))
    ran = built.doit("train")
    assert "resuming at step" in ran.out
    assert ran.steps == ["train:tower"]
    unfinished = built.store / "cache" / "unfinished"
    assert not unfinished.exists() or not any(unfinished.iterdir())
    for name in ("adapter.json", "current.txt", "versions/v0002/training_state.pt", "versions/v0002/training_run.json"):
        assert (built.store / "adapter" / name).read_bytes() == (whole.store / "adapter" / name).read_bytes(), name


def test_two_builds_in_two_homes_are_the_same_bytes(built: Workshop, tmp_path: Path) -> None:
    other = Workshop(tmp_path / "other", tmp_path / "home2")
    shutil.copytree(built.folder, other.folder)
    (other.folder / ".doit.db").unlink()
    other.doit("export:Q4_K_M", PYTHONHASHSEED="7")
    for mine in sorted(built.store.rglob("*")):
        if mine.is_file() and not {"logs"} & set(mine.parts) and mine.name not in (".lock", *TIMED):
            theirs = other.store / mine.relative_to(built.store)
            assert theirs.read_bytes() == mine.read_bytes(), mine


def test_asking_during_a_build_is_answered_by_what_was_built_before(built: Workshop) -> None:
    question = ("tower", "Who trims the lamp?", "--max-tokens", "4")
    before = built.dlm("prompt", *question).out
    built.edit("tower", "The bell rings in fog.", "The bell rings at noon, and in fog, and once more at night.")
    build = built.start("doit", "export:Q4_K_M", err=subprocess.STDOUT)
    assert build.stdout is not None
    for line in build.stdout:
        if "train:tower  " in line:
            break
    during = [built.dlm("prompt", *question).out, built.dlm("prompt", "--export", "Q4_K_M", *question).out]
    while build.poll() is None:  # versions, adapter and export are replaced while they are being read
        during.append(built.dlm("prompt", *question).out)
    assert build.wait() == 0
    after = built.dlm("prompt", *question).out
    assert during[0] == before
    assert set(during) - {during[1]} <= {before, after}


def test_both_ways_of_asking_answer(built: Workshop) -> None:
    assert built.dlm("prompt", "tower", "Who trims the lamp?", "--max-tokens", "4").err == ""
    asked = built.dlm("prompt", "--export", "Q4_K_M", "tower", "Who trims the lamp?", "--max-tokens", "4")
    assert asked.out.strip()
    built.edit("tower", "rings in fog", "rings at noon")
    assert "has changed since this was built" in built.dlm("prompt", "tower", "Who?", "--max-tokens", "1").err
    missing = built.dlm("prompt", "--export", "Q6_K", "tower", "Who?", code=1)
    assert "doit export:tower:Q6_K" in missing.err


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ("gguf:./base", "base"),
        ("file:./tower.dlm", "tower.dlm"),
        ("file:./nowhere", "nowhere"),
        ("gguf:./no.gguf", "no.gguf"),
    ],
)
def test_a_base_that_is_not_what_it_is_said_to_be_is_refused_in_words(built: Workshop, base: str, told: str) -> None:
    built.edit("tower", "file:./base", base)
    ran = built.dlm("train", code=1)
    assert told in ran.err and "→" in ran.err
    assert "defect" not in ran.err and "Traceback" not in ran.err
