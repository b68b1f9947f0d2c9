"""Evaluation through the command line: measured once, held to what the document asks for each time."""

from __future__ import annotations

import json

import pytest

from tests.workshop import Workshop

pytestmark = pytest.mark.model

PROBE = "\n### Q !probe\nWhose task is the lamp?\n### A\nIt is the keeper's task.\n"
ALL = ["evaluate:tower:base", "evaluate:tower:adapter", "evaluate:tower:export", "evaluate:tower"]


def ask_for(shop: Workshop, thresholds: str) -> None:
    path = shop.folder / "tower.dlm"
    lines = [line for line in path.read_text().splitlines(keepends=True) if not line.startswith("evaluate:")]
    text = "".join(lines).replace("dlm_version: 15\n", "dlm_version: 16\n")
    path.write_text(text.replace("dlm_version: 16\n", f"dlm_version: 16\nevaluate: {thresholds}\n"))


def report(shop: Workshop) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    found: dict[str, dict[str, dict[str, dict[str, float]]]] = json.loads(
        (shop.store / "eval" / "report.json").read_bytes()
    )
    return found


def test_measured_once_and_held_to_what_is_asked_for_each_time(built: Workshop) -> None:
    path = built.folder / "tower.dlm"
    path.write_text(path.read_text() + PROBE)
    ran = built.doit("evaluate")
    assert set(ALL) == {step for step in ran.steps if step.startswith("evaluate")}
    assert "train:tower" not in ran.steps + ran.restored  # a probe trains nothing
    assert "tower" in ran.out and "ppl prose" in ran.out
    models = report(built)["models"]
    assert set(models) == {"base", "adapter", "Q4_K_M"}
    for model in models.values():
        assert (model["recall"]["of"], model["probes"]["of"], model["stops"]["of"]) == (2, 1, 3)
    for who in ("base", "adapter"):
        assert set(models[who]["loss"]) == {"instruction", "prose", "general"}
    assert models["adapter"]["loss"]["instruction"] < models["base"]["loss"]["instruction"]
    assert "everything is up to date" in built.doit("evaluate").out

    whole = (built.store / "eval" / "report.json").read_bytes()
    assert built.doit("clean", "evaluate").code == 0
    assert not (built.store / "eval" / "report.json").exists()
    ran = built.doit("evaluate")
    assert (ran.steps, ran.restored) == ([], ["evaluate:tower"])
    assert (built.store / "eval" / "report.json").read_bytes() == whole
    counts = ((name, models["Q4_K_M"][name]) for name in ("recall", "probes"))
    told = ", ".join(f"{name} {count['right']}/{count['of']}" for name, count in counts)
    assert f"Q4_K_M: {told}" in built.dlm("show").out

    # What an edit leaves as it was is not measured again.
    built.edit("tower", "dlm_version: 15\n", "dlm_version: 15\ntraining: {seed: 7}\n")
    assert {step for step in built.doit("evaluate").steps if step.startswith("evaluate")} == set(ALL[1:])

    # What is held out is not counted as trained, and has a loss of its own.
    built.edit(
        "tower",
        "dlm_version: 15\ntraining: {seed: 7}",
        "dlm_version: 16\ntraining: {seed: 7, precision: fp32, validation: 0.4}",
    )
    ran = built.doit("evaluate")
    held = json.loads((built.store / "dataset.json").read_bytes())["held_out"]["rows"]
    adapter = report(built)["models"]["adapter"]
    asked = {sort: (adapter[sort] or {"of": 0})["of"] for sort in ("recall", "held_out", "probes")}
    assert asked == {"recall": 2 - held.get("instruction", 0), "held_out": held.get("instruction", 0), "probes": 1}
    losses = [json.loads(line) for line in max((built.store / "logs").glob("train-*.jsonl")).read_text().splitlines()]
    (*_, last) = (line for line in losses if "eval_loss" in line)
    for kind in held:
        assert adapter["loss"][f"held-out {kind}"] == pytest.approx(last[f"eval_{kind}"], abs=1e-3)
        assert f"ppl held-out {kind}" in ran.out


def test_a_model_below_its_thresholds_fails_with_their_lines(built: Workshop) -> None:
    before = built.doit()
    assert not any(step.startswith("evaluate") for step in before.steps)
    ask_for(built, "{recall: 1.0, retention: 0, perplexity: 1000}")
    for again in range(2):
        ran = built.doit(code=1)
        assert set(ran.steps) == (set() if again else {"check:tower", *ALL[:3]})
        assert "tower.dlm:4:20: evaluate.recall asks for at least 1.0, and the model has" in ran.err
        assert "expected: The bell rings in fog.\n" in ran.err and "got: " in ran.err
        assert "tower.dlm:4:36: evaluate.retention asks for 0" in ran.err  # the random base knows nothing to keep
        assert "evaluate.perplexity" not in ran.err and "report.json" in ran.err
        assert report(built)["models"]
        why = built.doit("why", code=1)
        assert "fail     evaluate:tower" in why.out and "evaluate.recall asks" in why.out
    assert built.doit("export").steps == []  # an export waits for no evaluation

    ask_for(built, "{recall: 0.0, perplexity: 1000}")
    ran = built.doit()
    assert ran.steps == ["check:tower", "evaluate:tower"]  # nothing is measured again
    assert "everything is up to date" in built.doit().out
    assert "everything is up to date" in built.dlm("build").out

    ask_for(built, "{probes: 0.0}")
    err = built.doit(code=1).err
    assert "tower.dlm:4:20: evaluate.probes asks for 0.0, and there is not a ### Q !probe to ask" in err


def test_an_older_version_of_the_format_has_no_thresholds(built: Workshop) -> None:
    built.edit("tower", "dlm_version: 15\n", "dlm_version: 15\nevaluate: {recall: 0.9}\n")
    err = built.dlm("check", code=1).err
    assert "tower.dlm:4:1: evaluate in version 15: version 16 has it first" in err and "dlm migrate --write" in err
    ask_for(built, "{recall: 1.5, facts: 1}")
    err = built.dlm("check", code=1).err
    assert 'unknown key "facts" in evaluate' in err
    assert "tower.dlm:4:20: evaluate.recall is 1.5: it must be a number from 0 to 1" in err
