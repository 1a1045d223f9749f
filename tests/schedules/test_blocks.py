# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnn_tvm.schedules.blocks import preferred_block


@pytest.mark.parametrize(
    ("unit", "block"),
    [(64, 16), (28, 14), (56, 14), (112, 16), (24, 12), (13, 13), (5, 5), (3, 1), (1, 1), (17, 1)],
)
def test_block_of_a_unit(unit: int, block: int) -> None:
    assert preferred_block(unit) == block


@given(st.integers(1, 4096))
def test_a_block_divides_its_unit(unit: int) -> None:
    assert unit % preferred_block(unit) == 0
    assert preferred_block(unit) <= 16
