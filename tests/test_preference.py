"""Preference training through the command line: a second phase with a version and a key of its own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.workshop import BODY, Workshop

pytestmark = pytest.mark.model

PREFERENCES = """
::preference::
### Prompt
Who trims the lamp?
### Chosen
The keeper trims the lamp, every evening.
### Rejected
Nobody knows.

### Prompt
When does the bell ring?
### Chosen
The bell rings in fog.
### Rejected
Never, I think.
"""


@pytest.fixture
def preferring(built: Workshop) -> Workshop:
    """The built project, with preferences added to its document."""
    path = built.folder / "tower.dlm"
    path.write_text(path.read_text() + PREFERENCES)
    return built


def _versions(shop: Workshop) -> tuple[str, str]:
    adapter = shop.store / "adapter"
    return (adapter / "sft.txt").read_text().strip(), (adapter / "current.txt").read_text().strip()


def test_preferences_are_a_phase_of_their_own(preferring: Workshop) -> None:
    ran = preferring.doit("export:Q4_K_M")
    assert "train:tower" not in ran.steps  # the rows are what they were: its adapter is restored
    assert "prefer:tower" in ran.steps and "merge:tower:Q4_K_M" in ran.steps
    assert _versions(preferring) == ("versions/v0001", "versions/v0002")
    (run,) = json.loads((preferring.store / "manifest.json").read_bytes())["training_runs"][1:]
    assert (run["adapter_version"], run["method"], run["rows"]) == ("v0002", "dpo", 2)
    (log,) = (preferring.store / "logs").glob("prefer-*.jsonl")
    steps = [line for line in map(json.loads, log.read_text().splitlines()) if "step" in line]
    assert steps[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # at first it is the reference itself: log 2
    assert all({"rewards/margins", "rewards/accuracies", "logps/chosen"} <= step.keys() for step in steps)
    assert preferring.doit("export:Q4_K_M").steps == []

    preferring.edit("tower", "Never, I think.", "Never at all.")
    ran = preferring.doit("export:Q4_K_M")
    assert ran.steps[:3] == ["check:tower", "dataset:tower", "prefer:tower"]
    assert "train:tower" not in ran.steps + ran.restored

    preferring.edit("tower", "Never at all.", "Never, I think.")
    ran = preferring.doit("export:Q4_K_M")
    assert "prefer:tower" in ran.restored and ran.steps == []
    assert preferring.dlm("gc", "--delete", "--versions", "1").code == 0
    assert preferring.doit("export:Q4_K_M").steps == []


def test_what_is_written_about_preferences_trains_them_alone_and_off_means_off(preferring: Workshop) -> None:
    preferring.doit("train", "prefer")
    method = "training: {preference: {method: orpo, hyperparams: {learning_rate: 1e-3, num_epochs: 2}}}"
    preferring.edit("tower", "dlm_version: 15", f"dlm_version: 15\n{method}")
    ran = preferring.doit("prefer")
    assert ran.steps == ["check:tower", "plan:tower", "prefer:tower"]
    plan = json.loads((preferring.store / "plan.json").read_bytes())["preference"]
    assert plan == {"method": "orpo", "alpha": 0.1, "learning_rate": 1e-3, "num_epochs": 2}
    why = preferring.doit("why", "prefer", code=None)
    assert "up to date" in why.out

    preferring.edit("tower", method, "training: {preference: {enabled: false, method: orpo}}")
    ran = preferring.doit("export:Q4_K_M")
    assert "2 preferences (training.preference.enabled is false)" in ran.out
    assert "prefer:tower" not in ran.steps + ran.restored
    assert (preferring.store / "adapter" / "current.txt").read_text() == "versions/v0001\n"


def test_each_answer_by_itself_is_taught_as_good_or_bad(preferring: Workshop) -> None:
    method = "{method: kto, hyperparams: {learning_rate: 1e-3, num_epochs: 12}}"
    # One row in a batch: what does not match its prompt is in none, and comes from the other row all the same.
    preferring.edit(
        "tower", "dlm_version: 15", f"dlm_version: 16\ntraining: {{micro_batch_size: 1, preference: {method}}}"
    )
    preferring.doit("prefer")
    plan = json.loads((preferring.store / "plan.json").read_bytes())
    assert plan["micro_batch_size"] == 1
    phase = {"method": "kto", "beta": 0.1, "reference": "pre_adapter", "learning_rate": 1e-3, "num_epochs": 12}
    assert plan["preference"] == phase
    run = json.loads((preferring.store / "manifest.json").read_bytes())["training_runs"][-1]
    assert (run["method"], run["rows"], run["last_accuracy"]) == ("kto", 2, 1)
    (log,) = (preferring.store / "logs").glob("prefer-*.jsonl")
    steps = [line for line in map(json.loads, log.read_text().splitlines()) if "step" in line]
    assert steps[0]["loss"] == pytest.approx(0.5, abs=1e-3)  # at first it is the reference itself
    assert steps[0]["rewards/margins"] == pytest.approx(0, abs=1e-3)
    assert min(step["rewards/margins"] for step in steps[-2:]) > 0.5
    assert steps[-1]["loss"] < 0.45


@pytest.mark.parametrize("method", ["method: dpo, reference: base", "method: kto"])
def test_a_preference_training_that_is_killed_resumes_to_the_same_bytes(
    preferring: Workshop, tmp_path: Path, method: str
) -> None:
    preferring.edit(
        "tower",
        "dlm_version: 15",
        "dlm_version: 16\ntraining: {lora_dropout: 0.1, preference: {hyperparams: {num_epochs: 60, "
        f"learning_rate: 1e-4}}, {method}}}}}",
    )
    preferring.doit("train")
    whole = Workshop(tmp_path / "whole", tmp_path / "home2")
    shutil.copytree(preferring.folder, whole.folder)
    shutil.copytree(preferring.home, whole.home)
    whole.doit("prefer")
    preferring.killed_at_checkpoint("prefer", range(7, 60))
    ran = preferring.doit("prefer")
    assert "resuming at step" in ran.out and ran.steps == ["prefer:tower"]
    version = (whole.store / "adapter" / "current.txt").read_text().strip()
    for name in ("adapter.json", f"{version}/adapter_model.safetensors", f"{version}/training_state.pt"):
        assert (preferring.store / "adapter" / name).read_bytes() == (whole.store / "adapter" / name).read_bytes()


def test_a_preference_that_does_not_fit_is_refused_with_its_line(preferring: Workshop) -> None:
    preferring.edit("tower", "every evening.", "every evening. " + "Really. " * 3000)
    line = 1 + (BODY.count("\n") + 5) + PREFERENCES.split("### Chosen")[0].count("\n")
    err = preferring.doit("dataset", code=1).err
    assert f"tower.dlm:{line}:1:" in err and "shorten the answer" in err


def test_preferences_or_their_training_alone_are_told(built: Workshop) -> None:
    path = built.folder / "tower.dlm"
    head, body = path.read_text().split("---\n# ")
    path.write_text(head + "---\n" + PREFERENCES)
    assert "nothing to train" in built.doit("dataset", code=1).err
    path.write_text(head + "training: {preference: {enabled: true}}\n---\n# " + body)
    ran = built.doit("export:Q4_K_M")
    assert "training.preference.enabled is true, and there is no ::preference:: section" in ran.out
    assert ran.steps == ["check:tower"]
