# SPDX-License-Identifier: Apache-2.0
"""Devices with little memory: who is chosen then, and what they get."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from decnn_tvm.assignment import assign_groups
from decnn_tvm.errors import PlanningError
from decnn_tvm.planning.candidates import fits
from decnn_tvm.planning.memory import IDLE_BYTES, least_memory
from decnn_tvm.planning.planner import Goal, Ranking, rank
from decnn_tvm.planning.speeds import Speeds
from decnn_tvm.planning.splits import Splitter
from decnn_tvm.simulation import Link
from decnn_tvm.targets import resolve_target
from tests.planning.test_planner import CLOCK, GIGABIT, cluster, estimate_of, small_resnet

TARGET = resolve_target("host")
PLENTY = 4 << 30


def limited(clocks: Sequence[float], rooms: Sequence[int | None], link: Link = GIGABIT) -> Speeds:
    """Return a cluster whose devices may take so much above an idle worker."""
    speeds = cluster(clocks, link)
    devices = tuple(
        dataclasses.replace(device, memory_bytes=None if room is None else IDLE_BYTES + room)
        for device, room in zip(speeds.machines.devices, rooms, strict=True)
    )
    machines = dataclasses.replace(speeds.machines, devices=devices)
    return dataclasses.replace(speeds, machines=machines)


def least(strategy: str, shares: tuple[int, ...]) -> list[int]:
    """Return what devices take without any sample."""
    split = Splitter([TARGET]).split(small_resnet(), strategy, shares)  # type: ignore[arg-type]
    groups = assign_groups(split.plan, len(shares), shares)
    return [memory.total for memory in least_memory(split, groups, [TARGET] * len(shares))]


def ranked(speeds: Speeds, goal: Goal, *counts: int) -> Ranking:
    network = small_resnet()
    return rank(network, speeds, goal=goal, exact=True, wires=("float32",), counts=counts or None)


def test_one_device_is_the_fastest_that_holds_the_network() -> None:
    speeds = limited([2 * CLOCK, CLOCK, 1.05 * CLOCK, CLOCK], [4 << 20, PLENTY, PLENTY, PLENTY])
    ranking = ranked(speeds, "throughput")
    assert ranking.single.ranks == (2,) and ranking.single_fits
    # Copies are for those three that hold one.
    assert estimate_of(ranking, "replicas").ranks == (1, 2, 3)
    assert all(entry.fits for entry in ranking.entries), [e.reason for e in ranking.entries]


def test_a_split_that_is_slower_than_the_one_that_fits_is_refused() -> None:
    slow = Link(bytes_per_second=1e6 / 8, latency_seconds=5e-3)
    speeds = limited([2.4e9, 1.2e9, 1.2e9], [4 << 20, None, None], slow)
    ranking = ranked(speeds, "latency")
    with pytest.raises(PlanningError, match="as fast or faster: board-1 alone takes"):
        _ = ranking.best
    assert ranking.entries[0].name == "one device" and ranking.entries[0].reason == ""


def test_a_board_with_half_the_memory_gets_what_it_holds() -> None:
    even, (*_, small) = least("channels", (1, 1, 1, 1))[0], least("channels", (3, 3, 3, 1))
    assert small < 0.9 * even
    rooms = [PLENTY, PLENTY, PLENTY, (even + small) // 2]
    # Slow enough that the fourth board helps.
    ranking = ranked(limited([CLOCK / 10] * 4, rooms), "latency", 1, 4)
    found = estimate_of(ranking, "exact channel split")
    assert fits(found, ranking.speeds)
    assert len(found.ranks) == 4 and found.shares[3] < min(found.shares[:3])


def test_devices_that_only_together_hold_it() -> None:
    """The fastest two can't, even with unequal shares; those with the most memory can."""
    half = max(least("channels", (1, 1)))
    rooms = [1 << 20, 1 << 20, half + (1 << 20), half + (1 << 20)]
    assert max(rooms) < min(least("single", (1,)))
    ranking = ranked(limited([2 * CLOCK, 2 * CLOCK, CLOCK, CLOCK], rooms), "latency", 1, 2)
    assert not ranking.single_fits
    assert estimate_of(ranking, "exact channel split").ranks == (2, 3)
    assert ranking.best.ranks == (2, 3) and not ranking.refused


def test_where_nothing_fits_the_closest_is_named() -> None:
    speeds = limited([2 * CLOCK, CLOCK], [1 << 20, 2 << 20])
    ranking = ranked(speeds, "throughput")
    assert not any(entry.fits for entry in ranking.entries)
    with pytest.raises(PlanningError, match="nothing fits the devices' memory: board-1 would need"):
        _ = ranking.best
