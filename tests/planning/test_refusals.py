# SPDX-License-Identifier: Apache-2.0
"""What is said of ways that lose to one device, or gain too little, and of what holds them up."""

from __future__ import annotations

import dataclasses

import pytest

from decnn_tvm.errors import PlanningError
from decnn_tvm.planning.estimates import estimate
from decnn_tvm.planning.planner import rank
from decnn_tvm.planning.reasons import refusal, why_it_loses
from decnn_tvm.planning.speeds import Speeds
from decnn_tvm.planning.splits import Splitter
from decnn_tvm.simulation import Device, Link
from tests.planning.test_planner import CLOCK, cluster, estimate_of, small_resnet


def why_channels_lose(speeds: Speeds) -> str:
    """Return what is said of a channel split over all devices, for throughput."""
    ranking = rank(
        small_resnet(),
        speeds,
        exact=True,
        wires=("float32",),
        counts=(1, len(speeds.clocks)),
    )
    found = estimate_of(ranking, "exact channel split")
    return why_it_loses(found, estimate_of(ranking, "replicas"), speeds, "throughput")


def test_slow_boards_on_fast_links_compute() -> None:
    reason = why_channels_lose(cluster([CLOCK / 10] * 2, Link(bytes_per_second=1e9)))
    assert "the busiest device computes" in reason


def test_dear_messages_take_processors() -> None:
    speeds = cluster([1e12] * 2, Link(bytes_per_second=1e12))
    devices = (Device(name="board", seconds_per_message=1e-2),) * 2
    machines = dataclasses.replace(speeds.machines, devices=devices)
    reason = why_channels_lose(dataclasses.replace(speeds, machines=machines))
    assert "messages take" in reason and "of a processor" in reason


def test_a_gain_within_what_a_simulation_errs_is_called_that() -> None:
    """Neither as fast or faster, nor the winner: one device is what is left."""
    network, speeds = small_resnet(), cluster([CLOCK] * 2)
    found = rank(network, speeds, goal="latency", exact=True, wires=("float32",))
    single, rows = found.single, estimate_of(found, "row strips")
    close = dataclasses.replace(rows, latency_seconds=0.97 * single.latency_seconds)
    text = refusal(close, single, speeds, "latency", fits=True)
    assert text.startswith("several devices gain too little: board-0 alone takes")
    assert "3.1% better" in text and "errs by 5%" in text and "--strategy single" in text
    assert "3.1% better than the winner" in why_it_loses(close, single, speeds, "latency")


def test_the_ranking_of_a_gain_that_is_too_small() -> None:
    """Of two boards on links of any speed some bring between 0 and 5 %; one of those is planned."""
    network, splitter = small_resnet(), Splitter(cluster([CLOCK]).targets)
    alone = rank(network, cluster([CLOCK]), exact=True, goal="latency", wires=("float32",)).single
    way = next(
        entry.estimate.alternative
        for entry in rank(network, cluster([CLOCK] * 2), exact=True, counts=(1, 2)).entries
        if entry.estimate is not None and entry.name == "exact channel split"
    )
    split = splitter.split(network, way.strategy, (1, 1))

    def gain(latency: float) -> float:
        speeds = cluster([CLOCK] * 2, Link(bytes_per_second=1e9, latency_seconds=latency))
        found = estimate(way, split, (1, 1), speeds, (0, 1), "float32", 2)
        one = splitter.split(network, "single", (1,))
        single = estimate(alone.alternative, one, (1,), speeds, (0,), "float32", 2)
        return single.latency_seconds / found.latency_seconds

    low, high = 0.0, 1.0  # of a gain above, and below
    assert gain(low) > 1.03 > gain(high)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if gain(middle) > 1.03 else (low, middle)
    speeds = cluster([CLOCK] * 2, Link(bytes_per_second=1e9, latency_seconds=low))
    ranking = rank(network, speeds, exact=True, goal="latency", wires=("float32",))
    assert [entry.name for entry in ranking.entries if not entry.reason] == ["one device"]
    with pytest.raises(PlanningError):
        _ = ranking.best


def test_no_split_at_all() -> None:
    ranking = rank(small_resnet(), cluster([CLOCK] * 2), exact=True, wires=("float32",))
    text = refusal(None, ranking.single, ranking.speeds, "latency", fits=True)
    assert text.startswith("no split over several devices can be had: board-0 alone takes")
