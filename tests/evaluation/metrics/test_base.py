"""What every evaluator shares: names with suffixes, rows of several processes, refusals."""

from __future__ import annotations

import pytest
import torch

from evaluation.metrics.base import NotComputed, by_metric, check_n, check_u8
from tests.judge import Brightness


@pytest.mark.parametrize("suffix", ["low", "high", "n", "real", "chance", "noise", "reconstruction"])
def test_a_suffix_belongs_to_its_metric(suffix: str) -> None:
    assert by_metric({"m": 0.5, f"m_{suffix}": 1.0}) == {"m": {"value": 0.5, suffix: 1.0}}


def test_a_name_that_only_ends_like_a_suffix_is_a_metric() -> None:
    assert by_metric({"very_low": 3.0, "m": 1.0, "m_share": 2.0}) == {
        "very_low": {"value": 3.0}, "m": {"value": 1.0}, "m_share": {"value": 2.0},
    }  # fmt: skip


def grey(*levels: int) -> torch.Tensor:
    return torch.tensor(levels, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2)


def test_rows_of_all_processes_are_put_together_in_the_order_of_the_images() -> None:
    first, second = Brightness(), Brightness()
    first.update(grey(0, 2), grey(10, 30), None, indices=[0, 2])
    second.update(grey(1), grey(20), None, indices=[1])
    first.sync(lambda mine: [mine, second.rows])
    assert first.details() == {"levels": [10, 20, 30]}
    assert first.compute() == {"brightness": 20, "brightness_real": 1}
    first.reset()
    assert not len(first.rows)


def test_images_are_numbered_on_where_nobody_numbers_them() -> None:
    judge = Brightness()
    judge.update(grey(0), grey(5), None, indices=[3])
    judge.update(grey(0, 0), grey(6, 7), None)
    assert judge.rows.indices == [3, 4, 5]


def test_other_than_bytes_and_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^fake must be uint8 \(B, C, H, W\), got torch.float32 \(1, 3, 2, 2\)"):
        check_u8(real=grey(1), fake=grey(1).float())
    with pytest.raises(ValueError, match=r"^real must be uint8 \(B, C, H, W\), got torch.uint8 \(3, 2, 2\)"):
        check_u8(real=grey(1)[0])
    check_n("m", 5, 5, "why")
    with pytest.raises(NotComputed, match="^m needs n of at least 5, got 4: why$"):
        check_n("m", 4, 5, "why")
