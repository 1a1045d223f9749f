# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from decnn_tvm.errors import PartitionError
from decnn_tvm.runtime.steps import moves_of, oldest_first, steps_of, uses_of
from decnn_tvm.transfers import HOST

TWO = ((0, 1), (2, 3))


def test_steps_of_a_device(hand_net) -> None:
    assert [str(step) for step in steps_of(hand_net.package.plan, TWO, 1)] == [
        "receive x_all from host",
        "compute stage0: x_all -> a",
        "send a -> b to 0",
        "copy a -> b",
        "receive b from 0",
        "compute stage1: b, a -> p",
        "send p -> y to host",
    ]


def test_steps_of_the_coordinator(hand_net) -> None:
    assert [str(step) for step in steps_of(hand_net.package.plan, TWO, HOST)] == [
        "send x -> x_all to 0, 1",
        "receive y from 0, 1",
    ]


def test_one_device_exchanges_nothing(hand_net) -> None:
    assert [str(step) for step in steps_of(hand_net.package.plan, ((0, 1, 2, 3),), 0)] == [
        "receive x_all from host",
        "compute stage0: x_all -> a",
        "copy a -> b",
        "compute stage1: b, a -> p",
        "send p -> y to host",
    ]


def test_uses_count_the_readers_of_a_value(hand_net) -> None:
    plan = hand_net.package.plan
    uses = uses_of(plan, moves_of(plan, TWO, 0), range(len(plan.stages)))
    assert uses == {"x_all": 1, "a": 2, "b": 1, "p": 1}


def test_the_oldest_sample_goes_first() -> None:
    assert oldest_first([(5, 0), (3, 2), (3, 1), (4, 0)]) == (3, 1)
    assert oldest_first([]) is None


@pytest.mark.parametrize("assignment", [((0, 1), (2,)), ((0, 1, 2), ()), ((0, 1), (1, 2, 3))])
def test_an_assignment_must_cover_the_groups_once(hand_net, assignment) -> None:
    with pytest.raises(PartitionError, match="exactly one device"):
        steps_of(hand_net.package.plan, assignment, 0)
