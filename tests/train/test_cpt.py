from __future__ import annotations

import pytest

from dlmbuild.data.rows import Row
from dlmbuild.train.cpt import row_weights, scheduled

PROSE, ANSWER = Row("prose", tuple(range(30)), 0), Row("instruction", tuple(range(20)), 10)


def test_prose_counts_so_many_times_as_much_as_answers_and_all_of_it_as_before() -> None:
    weights = row_weights([PROSE, ANSWER], 3.0)
    assert weights[0] / weights[1] == pytest.approx(3)
    assert 30 * weights[0] + 10 * weights[1] == pytest.approx(40)  # learned tokens
    assert row_weights([PROSE, ANSWER], 1.0) == [1, 1]
    assert row_weights([PROSE, PROSE], 3.0) == [1, 1]  # nothing to weigh it against


def test_the_schedule_of_prose_comes_with_its_share_of_the_rows() -> None:
    own = {"lr_scheduler": "cosine_with_min_lr", "warmup_ratio": 0.2}
    plan = {"lr_scheduler": "linear", "warmup_ratio": 0.0, "cpt": {"weight": 1.0, "dapt_from": 0.7, **own}}
    assert scheduled(plan, [PROSE] * 7 + [ANSWER] * 3) == {**plan, **own}
    assert scheduled(plan, [PROSE] * 6 + [ANSWER] * 4) == plan
    assert scheduled({**plan, "cpt": {"weight": 1.0}}, [PROSE]) == {**plan, "cpt": {"weight": 1.0}}
