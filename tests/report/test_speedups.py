# SPDX-License-Identifier: Apache-2.0
"""Curves of speed-up and their limits, against what a hand reckons."""

from __future__ import annotations

import dataclasses

import pytest

from decnn_tvm.frontend import load
from decnn_tvm.planning.planner import rank
from decnn_tvm.planning.speeds import Speeds
from decnn_tvm.report.charts import Curve
from decnn_tvm.report.speedups import like_the_fastest, speedup_curves
from decnn_tvm.simulation import Device, Link
from decnn_tvm.testing import zoo
from decnn_tvm.transfers import HOST
from tests.planning.test_planner import CLOCK, cluster, small_resnet

HEADER = 64
INPUT = 3 * 64 * 64 * 4 + HEADER
"""Bytes of a message with the network's input."""


def computing_seconds(speeds: Speeds) -> float:
    """Return what a sample takes of the fastest device alone."""
    ranking = rank(small_resnet(), speeds, exact=True, wires=("float32",), counts=(1,))
    (seconds,) = ranking.single.compute_seconds
    return seconds


def curve(curves: list[Curve], name: str) -> list[tuple[int, float]]:
    (found,) = (list(curve.points) for curve in curves if curve.name == name)
    return found


def test_replicas_grow_up_to_what_the_coordinators_port_lets_through() -> None:
    """The inputs of three samples leave while one is computed, so three devices are enough."""
    seconds = computing_seconds(cluster([CLOCK]))
    link = Link(bytes_per_second=3 * INPUT / seconds)
    curves = speedup_curves(
        small_resnet(), cluster([CLOCK], link), (1, 2, 6), goal="throughput", exact=True
    )
    limits = [curve.name for curve in curves if curve.limit]
    assert limits == ["compute limit of replicas", "link limit of replicas"]
    assert curve(curves, "compute limit of replicas") == [(1, 1.0), *_about((2, 2.0), (6, 6.0))]
    # A device alone waits for nothing, as the next input comes while it computes.
    assert curve(curves, "link limit of replicas") == _about((2, 3.0), (6, 3.0))
    assert curve(curves, "replicas") == [(1, 1.0), *_about((2, 2.0), (6, 3.0))]
    for each in curves:
        for count, times in each.points if not each.limit else ():
            assert times < 3.0 * 1.001 and times < count * 1.001


def test_of_one_sample_the_limit_is_the_share_of_the_busiest_device() -> None:
    curves = speedup_curves(small_resnet(), cluster([CLOCK]), (2,), goal="latency", exact=True)
    (limit,) = (curve for curve in curves if curve.limit)
    winner = limit.name.removeprefix("compute limit of ")
    speeds = like_the_fastest(cluster([CLOCK]), 2)
    ranking = rank(small_resnet(), speeds, goal="latency", exact=True, counts=(1, 2))
    found = next(entry.estimate for entry in ranking.entries if entry.name == winner)
    assert found is not None and len(found.ranks) == 2
    whole, share = ranking.single.compute_seconds[0], max(found.compute_seconds)
    assert list(limit.points) == [(1, 1.0), (2, pytest.approx(whole / share))]
    times = ranking.single.latency_seconds / found.latency_seconds
    assert curve(curves, winner) == [(1, 1.0), (2, pytest.approx(times))]
    assert 1 < times < whole / share <= 2.001


def test_more_devices_are_like_the_fastest_on_its_own_link() -> None:
    slow, fast = Link(bytes_per_second=1e6), Link(bytes_per_second=1e9)
    speeds = cluster([CLOCK, 2 * CLOCK], slow)
    machines = dataclasses.replace(
        speeds.machines, host=Device(name="coordinator", seconds_per_message=1e-3)
    )
    speeds = dataclasses.replace(
        speeds, machines=dataclasses.replace(machines, links={(HOST, 1): fast})
    )
    many = like_the_fastest(speeds, 5)
    assert many.clocks == (2 * CLOCK,) * 5 and len(many.machines.devices) == 5
    assert {device.name for device in many.machines.devices} == {"board-1"}
    assert many.machines.link_of(HOST, 4) == many.machines.link_of(0, 3) == fast
    assert many.machines.host == machines.host


def test_one_device_is_a_point() -> None:
    curves = speedup_curves(small_resnet(), cluster([CLOCK]), (1,), goal="latency", exact=True)
    assert curves == [Curve("one device", [(1, 1.0)])]


def _about(*points: tuple[int, float]) -> list[tuple[int, object]]:
    """Return points whose values are met but for what the first samples take."""
    return [(count, pytest.approx(times, rel=2e-3)) for count, times in points]


def test_decoupled_versions_are_curves_of_their_own_without_a_point_of_one_device() -> None:
    """The published structure is for up to four devices; those of G groups are for any count."""
    network = load(zoo.alexnet(image_size=96, hidden=128), name="alexnet")
    curves = speedup_curves(network, cluster([CLOCK]), (2, 5), goal="latency", exact=False)
    counts = {one.name: [count for count, _ in one.points] for one in curves if not one.limit}
    assert counts == {
        "replicas": [1, 2, 5],
        "layer pipeline": [1, 2, 5],
        "row strips": [1, 2, 5],
        "exact channel split": [1, 2, 5],
        "decoupled, alexnet": [2],
        "decoupled, x1.5": [2, 5],
    }
