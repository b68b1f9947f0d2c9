"""What was measured as a report: counts with their intervals, what falls short of what was asked for, and a table."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from dlmbuild.eval.scores import exact, f1, names, recalled, wilson

Pairs = Sequence[Sequence[str]]
"""(question, expected answer), again and again."""
_SHOWN = 3
"""Questions that are shown of a threshold that was missed."""
SORTS = ("recall", "held_out", "probes")
"""Questions of a document: what is trained, what training.validation holds out, and what is only there to be asked."""


def make_report(
    measured: Mapping[str, Mapping[str, Any]],
    asked: Mapping[str, Pairs],
    items: Sequence[Mapping[str, Any]],
    shipped: str,
) -> dict[str, Any]:
    """The report on models: name → what eval/measure.py wrote of it. "base" is the one that the others are held to.

    `asked` has the questions by their sort, in the order of the answers; `shipped` names the model that people get.
    Shares are null where nothing was asked.
    """
    pairs = [(sort, *pair) for sort in SORTS for pair in asked.get(sort, ())]
    questions: list[dict[str, Any]] = []
    for at, (sort, question, expected) in enumerate(pairs):
        answers = {}
        for who, found in measured.items():
            said = found["answers"][at]
            scores = {"exact": exact(said["text"], expected), "f1": round(f1(said["text"], expected), 4)}
            answers[who] = {**said, **scores, "recalled": recalled(said["text"], question, expected)}
        questions.append({"question": question, "expected": expected, "sort": sort, "answers": answers})
    general: list[dict[str, Any]] = []
    for at, item in enumerate(items, len(pairs)):
        texts = {who: found["answers"][at]["text"] for who, found in measured.items()}
        right = {who: names(text, item["answers"]) for who, text in texts.items()}
        general.append({"question": item["question"], "expected": item["answers"], "answers": texts, "right": right})
    models = {}
    for who, found in measured.items():
        models[who] = {
            **{sort: _recall([q["answers"][who] for q in questions if q["sort"] == sort]) for sort in SORTS},
            "stops": _count([q["answers"][who]["stopped"] for q in questions]),
            "retention": _count([item["right"][who] for item in general if item["right"]["base"]]),
            "loss": found["loss"],
            "perplexity": {kind: round(_perplexity(loss), 3) for kind, loss in found["loss"].items()},
        }
    ratio = _perplexity(measured["adapter"]["loss"]["general"] - measured["base"]["loss"]["general"])
    return {
        "models": models,
        "shipped": shipped,
        "general_perplexity_ratio": round(ratio, 4),
        "questions": questions,
        "general": general,
    }


def missed(report: Mapping[str, Any], thresholds: Mapping[str, float]) -> list[dict[str, Any]]:
    """The thresholds that are missed: name, what was wanted, what was found (in words), and questions that show it."""
    who = report["shipped"]
    found = []
    for name, wanted in thresholds.items():
        if name == "perplexity":
            ratio = report["general_perplexity_ratio"]
            if ratio > wanted:
                found.append(
                    {"name": name, "wanted": wanted, "found": f"{ratio:.3g} times that of the base", "worst": []}
                )
        elif (count := report["models"][who][name]) is None or count["right"] / count["of"] < wanted:
            told = _in_words(count) if count else ""
            found.append({"name": name, "wanted": wanted, "found": told, "worst": _worst(report, who, name)})
    return found


def table(report: Mapping[str, Any], name: str) -> str:
    """What a person wants to know first, as lines of text."""
    kinds = list(report["models"]["base"]["perplexity"])
    sorts = [sort for sort in SORTS if sort != "held_out" or report["models"]["base"][sort]]
    heads = [sort.replace("_", " ") for sort in sorts]
    rows = [[name, *heads, "stops", "retention", *(f"ppl {kind}" for kind in kinds)]]
    for who in ("base", "adapter", report["shipped"]):
        model = report["models"][who]
        shares = [_in_words(model[share]) if model[share] else "–" for share in sorts]
        counts = [f"{c['right']}/{c['of']}" if (c := model[share]) else "–" for share in ("stops", "retention")]
        values = [f"{model['perplexity'][kind]:.4g}" if kind in model["perplexity"] else "–" for kind in kinds]
        rows.append([who, *shares, *counts, *values])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def _worst(report: Mapping[str, Any], who: str, name: str) -> list[list[str]]:
    """(question, expected, answer) of what was missed: those farthest from what is expected first."""
    if name == "retention":
        lost = [item for item in report["general"] if item["right"]["base"] and not item["right"][who]]
        return [_lines(item["question"], item["expected"][0], item["answers"][who]) for item in lost[:_SHOWN]]
    asked = [q for q in report["questions"] if q["sort"] == name and not q["answers"][who]["recalled"]]
    asked.sort(key=lambda q: q["answers"][who]["f1"])
    return [_lines(q["question"], q["expected"], q["answers"][who]["text"]) for q in asked[:_SHOWN]]


def _lines(*texts: str) -> list[str]:
    """Texts, each on one line of bearable length."""
    return [textwrap.shorten(text, 200, placeholder=" …") for text in texts]


def _recall(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    count = _count([answer["recalled"] for answer in answers])
    if count is None:
        return None
    mean = sum(answer["f1"] for answer in answers) / len(answers)
    return {**count, "exact": sum(answer["exact"] for answer in answers), "f1": round(mean, 4)}


def _count(flags: Sequence[bool]) -> dict[str, Any] | None:
    if not flags:
        return None
    low, high = wilson(sum(flags), len(flags))
    return {"right": sum(flags), "of": len(flags), "low": round(low, 4), "high": round(high, 4)}


def _in_words(count: Mapping[str, Any]) -> str:
    return f"{count['right']}/{count['of']} ({100 * count['low']:.0f}–{100 * count['high']:.0f} %)"


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))  # the largest that is a number
