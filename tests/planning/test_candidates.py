# SPDX-License-Identifier: Apache-2.0
"""What is tried of an alternative: windows, some of the devices, and nothing without end."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import pytest

from decnn_tvm.frontend import load
from decnn_tvm.network import Network
from decnn_tvm.planning.alternatives import alternatives
from decnn_tvm.planning.planner import Ranked, Ranking, rank
from decnn_tvm.planning.shares import MAX_TOTAL
from decnn_tvm.planning.simulated_work import MOST_MESSAGES, WINDOWS, messages_of, too_many
from decnn_tvm.planning.splits import Splitter
from decnn_tvm.simulation import Link
from decnn_tvm.simulation.script import Scripts
from decnn_tvm.targets import resolve_target
from decnn_tvm.testing.graph_builder import GraphBuilder
from decnn_tvm.transfers import HOST
from tests.planning.test_planner import CLOCK, GIGABIT, cluster, estimate_of, small_resnet


def entry_of(ranking: Ranking, name: str) -> Ranked:
    return next(entry for entry in ranking.entries if entry.name == name)


@pytest.mark.parametrize(("latency", "expected"), [(0.0, WINDOWS[0]), (0.5, WINDOWS[-1])])
def test_windows_grow_while_the_rate_does(latency: float, expected: int) -> None:
    """One device alone has enough with two samples, unless they are long under way."""
    speeds = cluster([CLOCK * 10], Link(bytes_per_second=1e9, latency_seconds=latency))
    found = rank(small_resnet(), speeds, exact=True, wires=("float32",)).single
    assert found.window == expected


def test_replicas_have_a_window_for_each() -> None:
    found = rank(small_resnet(), cluster([CLOCK] * 3), exact=True, counts=(1, 3))
    assert estimate_of(found, "replicas").window in [3 * window for window in WINDOWS]


def test_some_of_the_devices_are_better_than_all() -> None:
    """One that is far from the coordinator holds up the others' results."""
    speeds = cluster([CLOCK] * 4)
    far = {(HOST, 3): Link(bytes_per_second=1e3, latency_seconds=1.0)}
    speeds = dataclasses.replace(speeds, machines=dataclasses.replace(speeds.machines, links=far))
    found = rank(small_resnet(), speeds, exact=True, wires=("float32",))
    assert found.best.ranks == (0, 1) and found.best.alternative.strategy == "replicas"


@pytest.mark.parametrize("strategy", ["channels", "rows", "pipeline", "replicas"])
def test_messages_are_told_from_placements(strategy: str) -> None:
    count = 4
    splitter = Splitter([resolve_target("host")])
    split = splitter.split(small_resnet(), strategy, (1,) * count)  # type: ignore[arg-type]
    scripts = Scripts(split.plan, [(group,) for group in range(count)]).of(0)
    real = sum(
        len(departure.messages)
        for script in scripts.values()
        for departures in script.departures
        for departure in departures
    )
    told = messages_of(split.plan, count)
    assert real == told if strategy != "rows" else real <= told <= 2 * real
    if strategy == "channels":
        # Told from a split for fewer, too.
        fewer = splitter.split(small_resnet(), strategy, (1, 1))
        assert 0.5 * told <= messages_of(fewer.plan, count) <= 2 * told


def test_what_takes_too_many_messages_is_left_out_and_says_how_many() -> None:
    """Among a thousand devices a channel split is never made, let alone simulated."""
    ranking = rank(
        small_resnet(), cluster([CLOCK] * 1000), wires=("float32",), exact=True, counts=(1, 1000)
    )
    entry = entry_of(ranking, "exact channel split")
    assert entry.estimate is None and not entry.fits
    assert "among 1000 devices a sample takes about" in entry.reason
    assert f"{MOST_MESSAGES:,} messages" in entry.reason
    replicas = estimate_of(ranking, "replicas")
    assert len(replicas.ranks) == 1000
    # The coordinator's link is what lets images through.
    rate = GIGABIT.bytes_per_second / (4 * 3 * 64 * 64)
    assert replicas.samples_per_second == pytest.approx(rate, rel=0.02)


def test_a_few_messages_are_played() -> None:
    assert too_many(MOST_MESSAGES // 10, 10, 4) == ""
    assert f"{MOST_MESSAGES:,}" in too_many(MOST_MESSAGES // 10 + 1, 10, 4)


def test_a_decoupling_that_cannot_be_had_says_why() -> None:
    ranking = rank(shallow(), cluster([CLOCK] * 2), wires=("float32",))
    entry = entry_of(ranking, "decoupled, G=2 x1.5")
    assert entry.estimate is None and not entry.fits
    assert "no place for a channel shuffle" in entry.reason
    ways = alternatives(shallow(), 2, exact=True, uneven=False)
    assert not any(way.reason for way in ways)


def test_many_devices_are_not_more_groups_than_are_of_use() -> None:
    """A network in so many groups that channels must be added for them would only be larger."""
    names = [way.name for way in alternatives(small_resnet(), 24, exact=False, uneven=False)]
    assert f"decoupled, G={MAX_TOTAL} x1.5" in names


def shallow() -> Network:
    """Return two convolutions, too few for a shuffle between them."""
    g = GraphBuilder("shallow", seed=0, batch=1, opset=17)
    x = g.relu(g.conv("stem", g.input("x", 3, 8), 8, 3, padding=1))
    x = g.relu(g.conv("last", x, 8, 3, padding=1))
    with TemporaryDirectory() as folder:
        onnx.save(g.model(g.linear("fc", g.flatten(x), 4)), Path(folder) / "model.onnx")
        return load(Path(folder) / "model.onnx")
