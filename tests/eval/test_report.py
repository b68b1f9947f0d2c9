"""The report: what is counted, what falls short, what a person sees."""

from __future__ import annotations

from typing import Any

import pytest

from dlmbuild.eval.report import make_report, missed, table

TRAINED = [["Who trims the lamp?", "The keeper trims the lamp."], ["Who rings?", "The warden rings."]]
PROBES = [["Whose task is the lamp?", "It is the keeper's."]]
ITEMS = [{"question": "Capital of France?", "answers": ["Paris"]}, {"question": "2 + 2?", "answers": ["4", "four"]}]


def answers(*texts: str, general: float = 2.0) -> dict[str, Any]:
    said = [{"text": text, "stopped": not text.endswith("…")} for text in texts]
    return {"answers": said, "loss": {"instruction": 1.0, "general": general}}


def report(probes: list[list[str]] = PROBES) -> dict[str, Any]:
    measured = {
        "base": answers("A lamp…", "I do not know.", *(["Nobody."] * len(probes)), "It is Paris.", "Five."),
        "adapter": answers("The keeper trims it.", "Ships.", *(["Ships."] * len(probes)), "Lille.", "4", general=2.5),
        "Q8_0": answers("The keeper.", "Ships…", *(["Ships."] * len(probes)), "Lille.", "4") | {"loss": {}},
    }
    return make_report(measured, {"recall": TRAINED, "probes": probes}, ITEMS, "Q8_0")


def test_counts() -> None:
    models = report()["models"]
    assert {who: (m["recall"]["right"], m["recall"]["of"]) for who, m in models.items()} == {
        "base": (0, 2),
        "adapter": (1, 2),
        "Q8_0": (1, 2),
    }
    assert models["adapter"]["recall"]["exact"] == 0 and 0 < models["adapter"]["recall"]["f1"] < 1
    assert models["Q8_0"]["stops"] == {"right": 2, "of": 3, "low": 0.2077, "high": 0.9385}
    # What the base does not know cannot be kept, and what it does not say counts for nobody.
    assert (models["base"]["retention"]["right"], models["adapter"]["retention"]["of"]) == (1, 1)
    assert models["adapter"]["retention"]["right"] == 0
    assert models["base"]["perplexity"] == {"instruction": 2.718, "general": 7.389}
    assert report()["general_perplexity_ratio"] == 1.6487


def test_only_what_falls_short_is_missed() -> None:
    assert missed(report(), {"recall": 0.5, "perplexity": 1.7}) == []
    recall, probes, retention, perplexity = missed(
        report(), {"recall": 0.6, "probes": 0.1, "retention": 1.0, "perplexity": 1.6}
    )
    assert recall["found"] == "1/2 (9–91 %)" and recall["worst"] == [[*TRAINED[1], "Ships…"]]
    assert probes["worst"] == [[*PROBES[0], "Ships."]]
    assert retention["worst"] == [["Capital of France?", "Paris", "Lille."]]
    assert perplexity["found"] == "1.65 times that of the base"


def test_a_share_that_is_just_reached_is_reached() -> None:
    pairs = [[f"Q{at}?", f"Fact{at}."] for at in range(100)]
    said = answers(*(answer if at < 7 else "no\nidea " * 99 for at, (_, answer) in enumerate(pairs)), "Paris")
    found = make_report(dict.fromkeys(("base", "adapter", "Q8_0"), said), {"recall": pairs}, ITEMS[:1], "Q8_0")
    assert missed(found, {"recall": 0.07}) == []  # 0.07 * 100 is more than 7
    (recall,) = missed(found, {"recall": 0.08})
    assert [len(texts) for texts in recall["worst"]] == [3, 3, 3]
    assert all("\n" not in text and len(text) <= 200 for texts in recall["worst"] for text in texts)


def test_what_was_not_asked_cannot_be_reached() -> None:
    (probes,) = missed(report([]), {"probes": 0.0})
    assert (probes["found"], probes["worst"]) == ("", [])
    assert report([])["models"]["Q8_0"]["probes"] is None


def test_a_loss_without_bounds_is_still_a_number() -> None:
    measured = {who: answers("", "", "", general=4000.0) for who in ("base", "adapter", "Q8_0")}
    found = make_report(measured, {"recall": TRAINED}, ITEMS[:1], "Q8_0")
    assert found["models"]["base"]["perplexity"]["general"] == pytest.approx(1e304, rel=1e3)
    assert found["models"]["adapter"]["retention"] is None


def test_the_table_has_a_line_for_each_model() -> None:
    head, *rows = table(report(), "tower").splitlines()
    assert head.split() == ["tower", "recall", "probes", "stops", "retention", "ppl", "instruction", "ppl", "general"]
    assert [row.split()[0] for row in rows] == ["base", "adapter", "Q8_0"]
    assert rows[2].split()[-2:] == ["–", "–"] and "2/3" in rows[2]


def test_what_is_held_out_is_a_sort_of_its_own() -> None:
    said = answers("The keeper.", "The warden.", "Ships.", "Paris", "4")
    asked = {"recall": TRAINED[:1], "held_out": TRAINED[1:], "probes": PROBES}
    found = make_report(dict.fromkeys(("base", "adapter", "Q8_0"), said), asked, ITEMS, "Q8_0")
    counted = {sort: (count["right"], count["of"]) for sort, count in found["models"]["Q8_0"].items() if sort in asked}
    assert counted == {"recall": (1, 1), "held_out": (1, 1), "probes": (0, 1)}
    assert table(found, "tower").splitlines()[0].startswith("tower    recall          held out ")
