from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dlmbuild.data.tokenizer import Tokenizer
from dlmbuild.errors import StoreError
from dlmbuild.inference.generate import answer_with_adapter, choose_adapters, load_model
from dlmbuild.io.progress import silent
from dlmbuild.train.gate import CONFIG, WEIGHTS, Gate, train_gate
from tests.tiny import make_tiny_adapter, make_tiny_base

pytestmark = pytest.mark.model

TEXTS = [["facts", f"Who {verb} the lamp?"] for verb in ("trims", "winds", "cleans", "sells")]
TEXTS += [["tone", f"Good {time}, ships!"] for time in ("morning", "evening", "night", "Sunday")]
PROBES = [["facts", "Who paints the lamp?"], ["tone", "Good summer, ships!"]]
SETTINGS = {"hidden_proj_dim": 16, "steps": 60, "lr": 1e-2, "cold_start_floor": 4, "entropy_lambda": 0.01}


def gate(root: Path, name: str, **settings: Any) -> dict[str, Any]:
    out = root / name
    out.mkdir()
    return train_gate(
        base=root / "base",
        adapters=["facts", "tone"],
        texts=TEXTS,
        probes=PROBES,
        settings={**SETTINGS, **settings},
        base_identity={"name": "tiny"},
        seed=7,
        threads=1,
        out=out,
        progress=silent,
    )


def test_what_a_gate_learns_and_what_decides_it(tmp_path: Path) -> None:
    make_tiny_base(tmp_path / "base")
    told = gate(tmp_path, "one")
    assert (told["texts"], told["cold"]) == ({"facts": 4, "tone": 4}, "")
    assert told["held_out"]["of"] == 8 and told["held_out"]["right"] >= 7
    assert told["probes"] == {"right": 2, "of": 2, "sure": {"right": 2, "of": 2}}
    gate(tmp_path, "again")
    for name in (WEIGHTS, CONFIG):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()

    more = {"steps": 50, "lr": 2e-2, "hidden_proj_dim": 8, "entropy_lambda": 0.5, "cold_start_floor": 5}
    made = {(tmp_path / "one" / WEIGHTS).read_bytes()}
    for key, value in more.items():
        gate(tmp_path, key, **{key: value})
        made.add((tmp_path / key / WEIGHTS).read_bytes())
    assert len(made) == 1 + len(more)

    model, tokenizer = load_model(tmp_path / "base", None), Tokenizer.from_base(tmp_path / "base")
    choice = Gate.read(tmp_path / "one").choose(model, tokenizer, "Good winter, ships!")
    assert choice.adapter == "tone" and choice.why.startswith("the gate is ")
    gate(tmp_path, "unsure", steps=1, lr=1e-6)
    choice = Gate.read(tmp_path / "unsure").choose(model, tokenizer, "Good winter, ships!")
    assert choice.adapter == "facts" and choice.why.startswith("the first adapter: the gate is only 5")
    choice = Gate.read(tmp_path / "cold_start_floor").choose(model, tokenizer, "Good winter, ships!")
    why = "the first adapter: facts has 4 texts to learn from, and the gate wants 5 of each"
    assert choice == ("facts", why)

    (tmp_path / "again" / WEIGHTS).write_bytes((tmp_path / "cold_start_floor" / WEIGHTS).read_bytes())
    with pytest.raises(StoreError, match="the gate is damaged") as caught:
        Gate.read(tmp_path / "again")
    assert caught.value.do == "doit gate"


def test_each_question_is_answered_by_the_adapter_that_is_chosen(tmp_path: Path) -> None:
    base = tmp_path / "base"
    make_tiny_base(base)
    gate(tmp_path, "gate")
    adapters = {name: tmp_path / name for name in ("facts", "tone")}
    for seed, path in enumerate(adapters.values()):
        make_tiny_adapter(path, base, seed=seed, alpha=64)
    sampling = {"temperature": 0, "top_p": 1.0, "seed": 1, "max_tokens": 6}
    asked = ["Good winter, ships!", "Who trims the lamp?", "Good night, ships!"]

    def answers(**how: Any) -> dict[str, Any]:
        return answer_with_adapter(
            base=base, **{"questions": asked, **how}, system_prompt=None, sampling=sampling, out=base, progress=silent
        )

    told = answers(gate=tmp_path / "gate", **{f"of_{name}": path for name, path in adapters.items()})
    names = [choice["adapter"] for choice in told["choices"]]
    assert names == ["tone", "facts", "tone"]
    alone = {name: answers(adapter=path)["answers"] for name, path in adapters.items()}
    assert told["answers"] == [alone[name][at] for at, name in enumerate(names)]
    assert alone["facts"] != alone["tone"]
    again = choose_adapters(base=base, gate=tmp_path / "gate", questions=asked, out=base, progress=silent)
    assert again["choices"] == told["choices"]
