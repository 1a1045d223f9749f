# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from decnn_tvm.planning.shares import proportional_shares, share_choices


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
