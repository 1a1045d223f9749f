# SPDX-License-Identifier: Apache-2.0
"""What messages take, reckoned by hand for a plan that is reckoned by hand."""

from __future__ import annotations

import pytest

from decnn_tvm.assignment import assign_groups
from decnn_tvm.profiling.message_costs import Spent, seconds_per_cycle
from decnn_tvm.simulation.message_load import (
    BYTE_CYCLES,
    MESSAGE_CYCLES,
    MessageLoad,
    message_loads,
)
from decnn_tvm.simulation.script import Scripts
from decnn_tvm.transfers import HOST
from tests.simulation.conftest import HEADER, exchanging_plan


def test_a_device_sends_takes_in_and_copies() -> None:
    plan = exchanging_plan(2, 1, channels=4, pixels=1000)
    loads = message_loads(Scripts(plan, assign_groups(plan, 2)), range(3))
    # An image comes; of the exchange a half goes, a half comes and a half is copied; a result goes.
    sizes = (16_000 + HEADER, 4_000 + HEADER, 4_000 + HEADER, 4_000, 8_000 + HEADER)
    assert loads[0] == loads[1] == MessageLoad(3 * len(sizes), 3 * sum(sizes))
    assert loads[HOST] == MessageLoad(3 * 4, 3 * (2 * sizes[0] + 2 * sizes[4]))
    assert loads[0].cycles == pytest.approx(
        3 * (len(sizes) * MESSAGE_CYCLES + sum(sizes) * BYTE_CYCLES)
    )


def test_what_stays_in_another_order_is_copied_as_a_whole() -> None:
    plan = exchanging_plan(2, 1, channels=4, pixels=1000)
    loads = message_loads(Scripts(plan, assign_groups(plan, 1)), range(1))
    assert loads[0] == MessageLoad(3, 3 * 16_000 + 2 * HEADER)


def test_processor_time_beyond_the_stages_is_that_of_messages() -> None:
    stages = [{"processor_seconds": 0.03}, {"processor_seconds": 0.01}]
    load = MessageLoad(8000, 400_000_000)
    spent = Spent(processor_seconds=10 * 0.04 + 5.0, samples=10, load=load)
    assert seconds_per_cycle(spent, stages, 1e8) == pytest.approx(5.0 / load.cycles, rel=0.01)
    assert seconds_per_cycle(spent, stages, 0.0) == pytest.approx(5.0 / load.cycles)


def test_few_messages_are_reckoned_by_the_stages() -> None:
    """Stages that take longer among others are no reason to take messages for dear."""
    stages = [{"processor_seconds": 0.04}]
    load = MessageLoad(20, 1_000_000)
    for beyond in (-0.08, 0.0, 0.001, 0.039, 0.041, 0.08):
        spent = Spent(processor_seconds=10 * 0.04 + beyond, samples=10, load=load)
        found = seconds_per_cycle(spent, stages, 1e8)
        assert found == pytest.approx(0.04 / 1e8, rel=0.25), beyond
        # By hand: 13e6 cycles of messages are 5.2 ms by the stages, which are known to 40 ms.
        weight, seen = (5.2 / 40) ** 2, max(0.0, beyond) / 13e6
        assert found == pytest.approx((weight * seen + 4e-10) / (weight + 1), rel=1e-12)


def test_nothing_is_told_of_messages_without_any() -> None:
    stages = [{"processor_seconds": 0.04}]
    spent = Spent(processor_seconds=0.5, samples=10, load=MessageLoad())
    assert seconds_per_cycle(spent, stages, 1e8) == pytest.approx(0.04 / 1e8)
    assert seconds_per_cycle(spent, stages, 0.0) is None
