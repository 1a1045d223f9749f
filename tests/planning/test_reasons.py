# SPDX-License-Identifier: Apache-2.0
"""What bounds an alternative is named with its figures, the coordinator's port too."""

from __future__ import annotations

import dataclasses
import re

import pytest

from decnn_tvm.planning.alternatives import alternatives
from decnn_tvm.planning.estimates import Estimate, estimate
from decnn_tvm.planning.reasons import why_it_loses
from decnn_tvm.planning.speeds import Speeds
from decnn_tvm.planning.splits import Splitter
from decnn_tvm.simulation import Device, Link
from decnn_tvm.transfers import HOST
from tests.planning.test_planner import CLOCK, cluster, small_resnet

HEADER = 64
INPUT = 3 * 64 * 64 * 4 + HEADER
"""Bytes of a message with the network's input."""


def estimated(name: str, speeds: Speeds, wire: str = "float32") -> Estimate:
    """Return an alternative on all devices of a cluster, with even shares."""
    count = len(speeds.clocks)
    ways = alternatives(small_resnet(), count, exact=True, uneven=False)
    way = next(way for way in ways if way.name == name)
    shares = (1,) * count
    split = Splitter(speeds.targets).split(way.network, way.strategy, shares)
    return estimate(way, split, shares, speeds, range(count), wire, 4 * count)


def reason(found: Estimate, speeds: Speeds) -> str:
    """Return why it loses to one that gives twice as many samples a second."""
    rate = 2 * found.samples_per_second
    winner = dataclasses.replace(found, samples_per_second=rate)
    return why_it_loses(found, winner, speeds, "throughput")


def test_inputs_keep_the_coordinators_port_busy() -> None:
    link = Link(bytes_per_second=10e6 / 8, latency_seconds=1e-4)
    speeds = cluster([50 * CLOCK] * 16, link)
    found = estimated("replicas", speeds)
    period = INPUT / link.bytes_per_second
    assert found.samples_per_second == pytest.approx(1 / period, rel=1e-3)
    assert max(found.compute_seconds) < 0.5 * period
    assert found.host_port.sent_bytes == INPUT
    assert found.busiest_port == (HOST, found.host_port)
    # A replica has one sample of 16.
    assert found.ports[3].received_bytes == pytest.approx(INPUT / 16)
    assert reason(found, speeds) == (
        f"the winner gives 2.00 times as many: {1e3 * period:.1f} ms of {1e3 * period:.1f} pass "
        "while the coordinator sends 0.05 MB at 10 Mb/s"
    )


def test_the_busiest_port_is_that_of_its_own_link() -> None:
    """A device that all are linked to slowly takes longer than the coordinator."""
    slow, fast = Link(bytes_per_second=1e6), Link(bytes_per_second=1e9)
    speeds = cluster([50 * CLOCK] * 3, fast)
    links = {(HOST, 1): slow, (0, 1): slow, (1, 2): slow}
    speeds = dataclasses.replace(speeds, machines=dataclasses.replace(speeds.machines, links=links))
    found = estimated("exact channel split", speeds)
    rank, port = found.busiest_port
    assert rank == 1 and port.busy_seconds > max(found.compute_seconds)
    assert port.busy_seconds == pytest.approx(port.busy_bytes / slow.bytes_per_second)
    text = reason(found, speeds)
    assert re.search(r"pass while board-1 (sends|takes in) \d\.\d\d MB at 8 Mb/s$", text), text


def test_messages_keep_the_coordinators_processor_busy() -> None:
    speeds = cluster([50 * CLOCK] * 4)
    host = Device(name="coordinator", seconds_per_message=0.1)
    speeds = dataclasses.replace(speeds, machines=dataclasses.replace(speeds.machines, host=host))
    found = estimated("replicas", speeds)
    # An input leaves and a result comes for each sample.
    assert found.host_message_seconds == pytest.approx(0.2)
    assert "messages take 200.0 ms of a processor, of 200." in reason(found, speeds)


def test_computing_is_named_where_it_takes_longest() -> None:
    speeds = cluster([CLOCK] * 2)
    found = estimated("replicas", speeds)
    took = f"{1e3 * max(found.compute_seconds):.1f} ms"
    assert f"the busiest device computes {took} of" in reason(found, speeds)
