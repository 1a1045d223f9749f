# SPDX-License-Identifier: Apache-2.0
"""Planted clusters: what must win, what must be refused, and that the figures are in the answer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import pytest

from decnn_tvm.errors import PlanningError
from decnn_tvm.frontend import load
from decnn_tvm.network import Network
from decnn_tvm.planning.estimates import Estimate, estimate
from decnn_tvm.planning.planner import Goal, Ranking, rank, score
from decnn_tvm.planning.speeds import Speeds
from decnn_tvm.planning.splits import Splitter
from decnn_tvm.simulation import Device, Link, Machines
from decnn_tvm.targets import resolve_target
from decnn_tvm.testing import zoo

CLOCK = 0.02e9
"""Slow enough that this small network is work."""
GIGABIT = Link(bytes_per_second=125e6, latency_seconds=1e-4)


@cache
def small_resnet() -> Network:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(zoo.small("resnet18"), path)
        return load(path, name="resnet18")


def cluster(clocks: Sequence[float], link: Link = GIGABIT, memory: int | None = None) -> Speeds:
    devices = tuple(
        Device(name=f"board-{index}", memory_bytes=memory) for index in range(len(clocks))
    )
    return Speeds(
        machines=Machines(devices=devices, link=link),
        clocks=tuple(clocks),
        targets=(resolve_target("host"),) * len(clocks),
        measured=False,
    )


def names(ranking: Ranking) -> list[str]:
    return [entry.name for entry in ranking.entries]


def ranked(speeds: Speeds, goal: Goal) -> Ranking:
    """Rank the exact ways on one device and on all."""
    counts = (1, len(speeds.clocks))
    return rank(small_resnet(), speeds, goal=goal, exact=True, wires=("float32",), counts=counts)


def estimate_of(ranking: Ranking, name: str) -> Estimate:
    found = next(entry.estimate for entry in ranking.entries if entry.name == name)
    assert found is not None
    return found


def test_all_exact_alternatives_are_ranked_best_first() -> None:
    ranking = ranked(cluster([CLOCK] * 3), goal="throughput")
    assert {*names(ranking)} == {
        "one device",
        "replicas",
        "layer pipeline",
        "row strips",
        "exact channel split",
    }
    scores = [score(entry.estimate, "throughput") for entry in ranking.entries if entry.estimate]
    assert scores == sorted(scores, reverse=True)
    # Whole copies, each on its own images, divide the work by the devices and exchange nothing.
    assert estimate_of(ranking, "replicas").samples_per_second == pytest.approx(
        3 * ranking.single.samples_per_second, rel=0.05
    )
    reasons = [entry.reason for entry in ranking.entries]
    assert reasons[0] == "" and all("times as many" in reason for reason in reasons[1:])


def test_one_sample_is_split_where_links_are_fast() -> None:
    ranking = rank(small_resnet(), cluster([CLOCK] * 2), goal="latency", exact=True)
    assert ranking.best.alternative.strategy in ("rows", "channels")
    assert ranking.best.latency_seconds < 0.75 * ranking.single.latency_seconds


def test_a_hopeless_case_is_refused_with_the_figures() -> None:
    slow = Link(bytes_per_second=1e6 / 8, latency_seconds=5e-3)
    ranking = ranked(cluster([1.2e9] * 4, slow), goal="latency")
    assert ranking.entries[0].name == "one device"
    with pytest.raises(PlanningError) as refused:
        _ = ranking.best
    text = str(refused.value)
    assert "one device is as fast or faster: board-0 alone takes" in text
    assert f"{1e3 * ranking.single.latency_seconds:.2f} ms" in text
    assert "--strategy single" in text


def test_a_slow_board_gets_less_and_the_plan_is_faster_for_it() -> None:
    speeds = cluster([CLOCK, CLOCK, CLOCK, CLOCK / 2])
    ranking, splitter = ranked(speeds, goal="throughput"), Splitter(speeds.targets)
    # Strips of a small image are coarse, and their seams are computed twice.
    for name, gain in (("row strips", 1.0), ("replicas", 1.3)):
        found = estimate_of(ranking, name)
        assert found.shares[3] < min(found.shares[:3])
        way, even = found.alternative, (1, 1, 1, 1)
        split = splitter.split(way.network, way.strategy, even)
        waiting = estimate(way, split, even, speeds, found.ranks, found.wire, found.window)
        assert found.samples_per_second > gain * waiting.samples_per_second


def test_what_does_not_fit_the_memory_comes_last_and_says_by_how_much() -> None:
    limit = 64 << 20
    free = ranked(cluster([CLOCK] * 2), goal="throughput")
    single = max(memory.total for memory in free.single.memory)
    tight = 60 * (1 << 20) + single - 1
    assert tight < 2 * limit
    ranking = ranked(cluster([CLOCK] * 2, memory=tight), goal="throughput")
    unfit = [entry for entry in ranking.entries if not entry.fits]
    assert {entry.name for entry in unfit} >= {"one device", "replicas"}
    assert ranking.entries[-len(unfit) :] == tuple(unfit)
    assert all("would need" in entry.reason and "may take" in entry.reason for entry in unfit)
    assert ranking.best.alternative.strategy not in ("single", "replicas")


def test_nothing_fits() -> None:
    ranking = ranked(cluster([CLOCK] * 2, memory=61 << 20), goal="throughput")
    with pytest.raises(PlanningError, match="nothing fits the devices' memory: board-0 would need"):
        _ = ranking.best


def test_a_dense_network_is_also_tried_decoupled() -> None:
    ranking = rank(small_resnet(), cluster([CLOCK] * 2), goal="latency")
    decoupled = [entry for entry in ranking.entries if entry.name.startswith("decoupled")]
    assert [entry.name for entry in decoupled] == ["decoupled, G=2 x1.5"]
    assert decoupled[0].estimate is not None
    assert not decoupled[0].estimate.alternative.trained


def test_narrower_wires_win_on_slow_links() -> None:
    slow = Link(bytes_per_second=2e6)
    ranking = rank(small_resnet(), cluster([CLOCK] * 2, slow), goal="latency", exact=True)
    rows = next(entry for entry in ranking.entries if entry.name == "row strips")
    assert rows.estimate is not None and rows.estimate.wire == "int8"


def test_one_device_is_tried_whatever_counts_are() -> None:
    speeds = cluster([CLOCK] * 4)
    ranking = rank(
        small_resnet(), speeds, exact=True, wires=("float32",), counts=(4, 2), goal="throughput"
    )
    assert ranking.single.ranks == (0,)
    assert {len(entry.estimate.ranks) for entry in ranking.entries if entry.estimate} <= {1, 2, 4}
    assert len(estimate_of(ranking, "replicas").ranks) == 4
