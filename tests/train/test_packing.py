"""Rows that are packed give what each gives alone, in every family, also over kept states of the lower layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlmbuild.data.rows import Row
from dlmbuild.train.kept import Kept
from dlmbuild.train.packing import MOST, Packed, Packing
from dlmbuild.train.prefix import FrozenPrefix
from tests.families import FAMILIES, make_model

SAME = list(range(3, 40))
"""More tokens than the windows of the families that have one."""
ROWS = [
    Row("instruction", (*SAME, 7, 8, 9), 38),
    Row("instruction", (*SAME, 9, 8, 7, 6), 39),
    Row("prose", tuple(range(60, 20, -1)), 0),
    Row("prose", (5, 6, 7), 0),
    Row("prose", tuple(SAME[:20]), 0),
]


@settings(deadline=None)  # the first one imports torch
@given(st.lists(st.lists(st.integers(0, 3), max_size=8), min_size=1, max_size=6))
def test_each_token_sees_the_past_of_its_own_row(rows: list[list[int]]) -> None:
    packed = Packed.of(rows)
    seen = packed.mask()
    for row, path in zip(rows, packed.places, strict=True):
        assert [packed.ids[place] for place in path] == row
        assert [packed.positions[place] for place in path] == list(range(len(row)))
        for at, place in enumerate(path):
            assert seen[place].nonzero()[:, 0].tolist() == sorted(path[: at + 1])
    assert len(packed.ids) == len({tuple(row[:end]) for row in rows for end in range(1, len(row) + 1)})


@pytest.mark.model
@pytest.mark.parametrize("family", FAMILIES)
def test_packed_rows_have_the_logits_of_single_ones(family: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    make_model(tmp_path / "base", family)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32).eval()
    with torch.no_grad():
        alone = torch.cat(
            [model(torch.tensor([row.ids]), use_cache=False).logits[0, row.first - 1 : -1] for row in ROWS]
        )
        packing = Packing(model)
        assert packing.shares and list(packing.groups(ROWS)) == [list(range(len(ROWS)))]
        assert len(Packed.of([row.ids for row in ROWS]).ids) < sum(len(row.ids) for row in ROWS[:4])
        assert torch.allclose(packing.logits(model, ROWS), alone, atol=1e-3)

        about = {"width": 64, "dtype": "float32"}
        prefix = FrozenPrefix(model, model.config.num_hidden_layers - 1, about, Kept(tmp_path / "states"), packing)
        prefix.take_over([ROWS[:2], *([row] for row in ROWS[2:])], _nothing)
        assert prefix.computed == len(ROWS)
        assert torch.allclose(packing.logits(model, ROWS), alone, atol=1e-3)
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.bfloat16).eval()
    assert Packing(half).shares


@pytest.mark.model
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_reads_packed_rows_otherwise_gets_single_ones(dtype: str, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    make_model(tmp_path / "base", "llama")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=dtype).eval()
    read = model.forward

    def without_masks(**given: Any) -> Any:
        return read(**{**given, "attention_mask": None})

    model.forward = without_masks
    packing = Packing(model)
    assert not packing.shares and list(packing.groups(ROWS)) == [[at] for at in range(len(ROWS))]
    one = packing.logits(model, ROWS[:1])
    alone = read(torch.tensor([ROWS[0].ids]), use_cache=False).logits[0, 37:-1]
    assert torch.allclose(one, alone, atol=1e-5)


@pytest.mark.model
def test_a_sequence_is_no_longer_than_its_longest_row_or_so_many_tokens(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    make_model(tmp_path / "base", "llama")
    packing = Packing(AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=torch.float32))
    lengths = [MOST + 1, MOST // 2, MOST // 2, 3, MOST]
    rows = [Row("prose", tuple(range(length)), 0) for length in lengths]
    assert list(packing.groups(rows)) == [[0], [1, 2], [3], [4]]
    assert len(rows[3].learned) == 2


def _nothing(*_: Any, **__: Any) -> None:
    """Progress that nobody watches."""
