"""The estimate against the peak of real trainings on this CPU, through the command line.

What is compared is what a process takes above what it holds after its imports, as getrusage counts it. Some trainings
run on a heap that gives every tensor back at once: their peak is that of the tensors, and the tolerance is the 10 %
that is allowed on GPUs. How much glibc's own heap wastes differs between two runs of one training by a tenth of the
peak, as threads happen to come; there the whole process is compared, within 15 %.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from dlmbuild.data.rows import Row
from dlmbuild.hardware.detect import this_machine
from dlmbuild.hardware.memory import CPU_RUNTIME
from dlmbuild.train import calibrate, prefix, wordings
from tests.families import make_model
from tests.tiny import make_tiny_base, text_of_tiny
from tests.workshop import Workshop

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the heap is glibc's")

WASTES_NOTHING = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
WIDE = {"vocab_size": 8000, "num_hidden_layers": 4}
SHAPES: dict[str, tuple[dict[str, Any], str]] = {
    "wide vocabulary": (WIDE, "micro_batch_size: 4, lora_dropout: 0.0, precision: fp32"),
    "half precision": ({**WIDE, "vocab_size": 16000}, "micro_batch_size: 4, lora_dropout: 0.0, precision: bf16"),
    "few tokens": ({**WIDE, "num_hidden_layers": 48}, "micro_batch_size: 4, lora_dropout: 0.0, precision: bf16"),
    "one row": ({"vocab_size": 4000, "num_hidden_layers": 16}, "micro_batch_size: 1, lora_dropout: 0.0"),
    "dropout": ({"num_hidden_layers": 16}, "micro_batch_size: 3, lora_dropout: 0.1"),
}


def measured_and_estimated(workshop: Workshop, name: str, **environment: str) -> tuple[dict[str, Any], dict[str, Any]]:
    changes, settings = SHAPES[name]
    if "bf16" in settings and this_machine().precision != "bf16":
        pytest.skip(
            "this processor has no products of bf16: other kernels compute them, with other memory of their own"
        )
    length = {"one row": 2048, "few tokens": 128}.get(name, 512)
    make_model(workshop.folder / "base", "llama", hidden=256, max_position_embeddings=2048, **changes)
    body = "\n".join(["# The harbour", "", *[text_of_tiny()] * 12])
    more = f"training: {{{settings}, grad_accum: 1, sequence_len: {length}}}\n"
    workshop.document("harbour", more=more, body=body)
    workshop.doit("dataset")
    said = workshop.dlm("doctor", "harbour", "--calibrate", "--json", **environment).out
    told: dict[str, Any] = json.loads(said)["document"]
    measured, estimate = told["measured"], told["estimate"]
    assert told["longest_row"] > 0.6 * length and told["verdict"] == "fits"
    assert estimate["activations"] + estimate["logits"] > 150e6  # enough to be seen
    assert measured["runtime"] == pytest.approx(CPU_RUNTIME, rel=0.1)
    return measured, estimate


@pytest.mark.parametrize("name", SHAPES)
def test_the_tensors_of_a_training_are_as_estimated(workshop: Workshop, name: str) -> None:
    measured, estimate = measured_and_estimated(workshop, name, **WASTES_NOTHING)
    estimated = estimate["total"] - estimate["allocator"] - CPU_RUNTIME
    print(
        f"{name}: estimate {estimated / 1e6:.0f} MB, measured {(measured['peak'] - measured['runtime']) / 1e6:.0f} MB"
    )
    assert estimated == pytest.approx(measured["peak"] - measured["runtime"], rel=0.1)


def test_the_whole_process_is_as_estimated(workshop: Workshop) -> None:
    measured, estimate = measured_and_estimated(workshop, "wide vocabulary")
    assert estimate["total"] == pytest.approx(measured["peak"], rel=0.15)


def test_the_time_of_an_epoch_is_that_of_its_steps(workshop: Workshop) -> None:
    make_model(workshop.folder / "base", "llama")
    workshop.document("harbour", more="training: {micro_batch_size: 1, grad_accum: 2, num_epochs: 3}\n")
    workshop.doit("dataset")
    said = workshop.dlm("doctor", "harbour", "--calibrate").out
    assert "measured in 2 steps" in said and "an epoch" in said and "all 3 epochs" in said
    told = json.loads(workshop.dlm("doctor", "harbour", "--calibrate", "--json").out)["document"]["measured"]
    assert told["seconds_per_epoch"] == 2 * told["seconds_per_step"]  # three rows, two of them in a step
    assert told["seconds"] == 3 * told["seconds_per_epoch"]
    assert list(workshop.store.glob("adapter*")) == []  # nothing of it is kept


def test_what_comes_before_the_first_step_is_in_the_time_of_a_first_training(workshop: Workshop) -> None:
    make_tiny_base(workshop.folder / "base")
    body = "\n\n".join(f"### Q\nWho keeps lamp {number}?\n### A\nKeeper {number}." for number in range(20))
    first = (
        "training: {micro_batch_size: 1, grad_accum: 2, num_epochs: 3, wordings: 3, layers: last 1, retention: 1.0}\n"
    )
    workshop.document("harbour", more=first, body=f"::instruction::\n{body}\n", version=16)
    workshop.doit("plan", "retention", "dataset")
    said = workshop.dlm("doctor", "harbour", "--calibrate").out
    assert "before the first step" in said and "a first training" in said
    told = json.loads(workshop.dlm("doctor", "harbour", "--calibrate", "--json").out)["document"]["measured"]
    assert told["steps"] < 20 * 3 / 2 and told["seconds_before"] > 0
    assert told["seconds"] == told["seconds_before"] + 3 * told["seconds_per_epoch"]

    workshop.edit("harbour", "wordings: 3, layers: last 1, retention: 1.0", "wordings: 1, layers: all, retention: 0")
    said = workshop.dlm("doctor", "harbour", "--calibrate", "--json").out
    assert json.loads(said)["document"]["measured"]["seconds_before"] == 0
    assert list(workshop.home.glob("states/*/*")) == []  # nothing of it is kept


def test_what_a_sample_took_before_its_first_step_is_that_of_as_many_questions_and_tokens() -> None:
    prose, asked = Row("prose", tuple(range(30)), 0), Row("instruction", tuple(range(10)), 5)
    some, rows, plan = [prose, asked, asked], [prose] * 2 + [asked] * 12, {"wordings": 3}
    questions = {wordings.PARAPHRASING: {0: 10.0, 1: 13.0, 2: 15.0}}
    # Seven rows, of 90 tokens together, in nine seconds, then the retention set in four.
    states = {prefix.FREEZING: {0: 20.0, 1: 22.0, 4: 25.0, 7: 29.0, 15: 31.0, 23: 33.0}}
    assert calibrate._before(questions, some, rows, plan) == 12 * (3 + 2) / 2
    assert calibrate._before(states, some, rows, plan) == 9 * (2 * 30 + 12 * 30) / (30 + 2 * 30) + 4
    assert calibrate._before({**questions, **states}, some, rows, plan) == 30 + 46
    assert calibrate._before({"training": {0: 1.0, 1: 2.0}}, some, rows, plan) == 0
