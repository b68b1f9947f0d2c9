from __future__ import annotations

import pytest

from dlmbuild.data.rows import Row
from dlmbuild.train.cpt import row_weights, scheduled, weighted_loss

PROSE, ANSWER = Row("prose", tuple(range(30)), 0), Row("instruction", tuple(range(20)), 10)


def test_prose_counts_so_many_times_as_much_as_answers_and_all_of_it_as_before() -> None:
    weights = row_weights([PROSE, ANSWER], 3.0)
    assert weights is not None and weights[0] / weights[1] == pytest.approx(3)
    assert 30 * weights[0] + 10 * weights[1] == pytest.approx(40)  # learned tokens
    assert row_weights([PROSE, ANSWER], 1.0) is None
    assert row_weights([PROSE, PROSE], 3.0) is None  # nothing to weigh it against


def test_the_schedule_of_prose_comes_with_its_share_of_the_rows() -> None:
    own = {"lr_scheduler": "cosine_with_min_lr", "warmup_ratio": 0.2}
    plan = {"lr_scheduler": "linear", "warmup_ratio": 0.0, "cpt": {"weight": 1.0, "dapt_from": 0.7, **own}}
    assert scheduled(plan, [PROSE] * 7 + [ANSWER] * 3) == {**plan, **own}
    assert scheduled(plan, [PROSE] * 6 + [ANSWER] * 4) == plan
    assert scheduled({**plan, "cpt": {"weight": 1.0}}, [PROSE]) == {**plan, "cpt": {"weight": 1.0}}


def test_a_weighted_loss_is_that_of_each_row_times_its_weight() -> None:
    import torch

    logits, targets = torch.randn(2, 3, 5), torch.tensor([[1, 2, -100], [4, -100, -100]])
    apart = [torch.nn.functional.cross_entropy(logits[row], targets[row], reduction="sum") for row in (0, 1)]
    loss = weighted_loss(logits, targets, torch.tensor([1.5, 0.5]), None, -100)
    assert torch.allclose(loss, (1.5 * apart[0] + 0.5 * apart[1]) / 3)
    assert torch.allclose(weighted_loss(logits, targets, torch.ones(2), 6, -100), sum(apart) / 6)
