# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Sequence

import pytest

from decnn_tvm.planning.shares import (
    MAX_TOTAL,
    capped_shares,
    proportional_shares,
    share_choices,
)


@pytest.mark.parametrize(
    ("total", "speeds", "expected"),
    [
        (4, [1.0] * 4, (1, 1, 1, 1)),
        (7, [2.0, 2.0, 2.0, 1.0], (2, 2, 2, 1)),
        (8, [3.0, 1.0], (6, 2)),
        (5, [1.0, 1.0], (3, 2)),
        (4, [100.0, 1.0, 1.0], (2, 1, 1)),
    ],
)
def test_shares_follow_the_speeds(
    total: int, speeds: list[float], expected: tuple[int, ...]
) -> None:
    assert proportional_shares(total, speeds) == expected


def test_equal_devices_get_equal_shares_alone() -> None:
    assert share_choices([1.0, 1.05, 1.0]) == [(1, 1, 1)]
    assert share_choices([1.0] * 3, groups=8) == [(3, 3, 2)]


def test_unequal_devices_get_more_than_one_choice() -> None:
    choices = share_choices([2.0, 2.0, 1.0])
    assert choices[0] == (1, 1, 1)
    assert (2, 2, 1) in choices
    assert share_choices([3.0, 1.0], groups=4) == [(2, 2), (3, 1)]


@pytest.mark.parametrize("speeds", [[3.0, 1.0], [5.0, 3.0, 2.0], [2.0] * 8 + [1.0] * 8])
def test_choices_are_the_best_of_all_totals(speeds: list[float]) -> None:
    def span(shares: Sequence[int]) -> float:
        return max(s / v for s, v in zip(shares, speeds, strict=True)) / sum(shares)

    totals = range(len(speeds) + 1, max(MAX_TOTAL, 2 * len(speeds)) + 1)
    made = [proportional_shares(total, speeds) for total in totals]
    soonest = min(made, key=lambda shares: (span(shares), sum(shares)))
    cheapest = min(made, key=lambda shares: span(shares) * (1 + 0.02 * sum(shares)))
    assert share_choices(speeds)[1:] == list(dict.fromkeys([soonest, cheapest]))


@pytest.mark.parametrize("count", [16, 1000])
def test_many_devices_are_dealt_as_well_as_few(count: int) -> None:
    half = count // 2
    choices = share_choices([2.0] * half + [1.0] * half)
    assert (2,) * half + (1,) * half in choices


@pytest.mark.parametrize(
    ("total", "caps", "expected"),
    [
        (10, [1.0, 1.0, 1.0, 0.13], (3, 3, 3, 1)),
        (10, [1.0] * 4, (3, 3, 2, 2)),
        (10, [0.3, 0.3, 0.3, 0.3], (3, 3, 2, 2)),
        (10, [0.3, 0.3, 0.3, 0.05], None),  # not even one group
        (10, [0.2, 0.2, 0.2, 0.2], None),  # too little together
    ],
)
def test_shares_within_caps(
    total: int, caps: list[float], expected: tuple[int, ...] | None
) -> None:
    assert capped_shares(total, [1.0] * 4, caps) == expected


def test_choices_within_caps() -> None:
    choices = share_choices([1.0] * 4, caps=[1.0, 1.0, 1.0, 0.13])
    assert choices and all(shares[3] <= 0.13 * sum(shares) for shares in choices)
    assert choices[0] == (3, 3, 3, 1)
    assert share_choices([1.0] * 2, groups=4, caps=[1.0, 0.3]) == [(3, 1)]
    assert share_choices([1.0] * 2, caps=[0.4, 0.4]) == []
