# SPDX-License-Identifier: Apache-2.0
"""Predicted against measured: every alternative on four emulated boards.

Four boards of a quarter of a core on 1 Gb/s, and of an eighth on 100 Mb/s. Each package is deployed
and measured: one image alone, and a stream. Two predictions stand beside each figure:

profile
    the package itself was profiled on the boards (stages, links, messages), and simulated;
plan
    as `decnn plan` sees it before anything of it is compiled: the cost model, with clocks from a
    profile of the whole network on each board.

Last, one board gets half the cores: the plan's uneven shares against even ones, both measured.
Needs Linux and root; see `benchmarks.emulated_boards`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.emulated_boards import INSIDE, EmulatedBoards, run_isolated
from benchmarks.harness import Figure, parser, progress, report
from decnn_tvm.cluster_file import ClusterFile, ClusterWorker
from decnn_tvm.compiler import compile_network
from decnn_tvm.decoupling import decouple
from decnn_tvm.frontend import load
from decnn_tvm.network import Network
from decnn_tvm.package import Package
from decnn_tvm.plan import Strategy
from decnn_tvm.planning.alternatives import Alternative
from decnn_tvm.planning.estimates import Estimate, estimate
from decnn_tvm.planning.prediction import predict
from decnn_tvm.planning.shares import proportional_shares
from decnn_tvm.planning.speeds import Speeds, cluster_speeds
from decnn_tvm.planning.splits import Splitter
from decnn_tvm.profiling import Profile, measure_profile
from decnn_tvm.runtime import Cluster, Session
from decnn_tvm.runtime.tensors import Array
from decnn_tvm.testing import zoo

BOARDS = 4
WINDOW = 4
NETWORKS = {"resnet50": ("resnet50", "resnet50-x1.75"), "resnet34": ("resnet34", "resnet34-x1.75")}
AIM = 0.15
"""Median error of what is predicted."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Boards: cores of each, and bits per second of each link."""

    name: str
    quota: float
    rate: float


SETTINGS = (Setting("0.25 core, 1 Gb/s", 0.25, 1e9), Setting("0.125 core, 100 Mb/s", 0.125, 1e8))


@dataclass(frozen=True, slots=True)
class Contestant:
    """A way to run a network; `decoupled` names what it is decoupled to."""

    name: str
    strategy: Strategy
    shares: tuple[int, ...]
    wire: str = "float32"
    decoupled: bool = False


EVEN = (1,) * BOARDS
UNEVEN_GROUPS = 7
CONTESTANTS = (
    Contestant("replicas", "replicas", EVEN),
    Contestant("layer pipeline", "pipeline", EVEN),
    Contestant("row strips", "rows", EVEN),
    Contestant("exact channel split", "channels", EVEN),
    Contestant("decoupled", "channels", EVEN, decoupled=True),
    Contestant("decoupled, float16", "channels", EVEN, wire="float16", decoupled=True),
)


class Packages:
    """Networks and what was compiled of them, each once, in a folder that may be kept."""

    def __init__(self, name: str, folder: Path) -> None:
        self._folder = folder
        model, preset = NETWORKS[name]
        self.dense = load(zoo.MODELS[model](), name=name)
        self.grouped = decouple(self.dense, preset=preset, weights="fresh")

    def network(self, contestant: Contestant) -> Network:
        """Return the network of a contestant."""
        return self.grouped if contestant.decoupled else self.dense

    def package(self, contestant: Contestant) -> Package:
        """Return its package."""
        shares = "-".join(map(str, contestant.shares))
        name = f"{self.dense.name}-{contestant.strategy}-{shares}-{contestant.wire}"
        path = self._folder / (name + ("-decoupled" if contestant.decoupled else ""))
        if not path.exists():
            progress(f"compiling {path.name}")
            compile_network(
                self.network(contestant),
                path,
                strategy=contestant.strategy,
                shares=contestant.shares,
                wire=contestant.wire,
            )
        return Package(path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = _options(arguments)
    made = {name: Packages(name, options.packages) for name in options.networks}
    if INSIDE not in os.environ:
        for packages in made.values():
            for contestant in (*CONTESTANTS, *_uneven((1.0, 1.0, 1.0, 0.5))):
                packages.package(contestant)
        if not options.compile_only:
            own = sys.argv[1:] if arguments is None else arguments
            sys.exit(run_isolated("benchmarks.prediction", own))
        return
    rows, uneven = [], []
    with EmulatedBoards(BOARDS, SETTINGS[0].quota) as boards:
        addresses = [boards.start_worker(rank) for rank in range(BOARDS)]
        with closing(_connect(boards, addresses)) as cluster:
            for setting in (SETTINGS[index] for index in options.settings):
                for rank in range(BOARDS):
                    boards.slow_down(rank, setting.quota)
                boards.limit(setting.rate)
                for name, packages in made.items():
                    rows += _rows(cluster, name, setting, packages)
                boards.slow_down(BOARDS - 1, setting.quota / 2)
                uneven += [
                    _uneven_row(cluster, name, setting, packages) for name, packages in made.items()
                ]
    report(
        "predicted against measured, four boards",
        rows + uneven,
        _summary(rows, uneven),
        options.json,
    )


def _connect(boards: EmulatedBoards, addresses: Sequence[str]) -> Cluster:
    return Cluster.connect(addresses, host=boards.host, insecure=True, timeout=120.0)


def _rows(
    cluster: Cluster, name: str, setting: Setting, packages: Packages
) -> list[dict[str, Any]]:
    base = measure_profile(cluster, packages.package(CONTESTANTS[0]))
    speeds = _speeds(base)
    splitter = Splitter(speeds.targets)
    rows = []
    for contestant in CONTESTANTS:
        progress(f"{name}, {setting.name}: {contestant.name}")
        package = packages.package(contestant)
        profile = measure_profile(cluster, package, shares=contestant.shares)
        planned = _planned(contestant, packages, splitter, speeds)
        alone = predict(profile, package.plan, window=1, samples=2)
        stream = predict(profile, package.plan, window=WINDOW, samples=6 * WINDOW)
        measured = _measure(cluster, package, contestant.shares)
        for figure, unit, own, by_profile, by_plan in (
            (
                "latency",
                1e3,
                measured.latency,
                alone.latency_seconds,
                planned.latency_seconds,
            ),
            (
                "throughput",
                1.0,
                measured.rate,
                stream.samples_per_second,
                planned.samples_per_second,
            ),
        ):
            rows.append(
                {
                    "network": name,
                    "boards": setting.name,
                    "alternative": contestant.name,
                    "figure": "ms" if figure == "latency" else "samples/s",
                    "measured": unit * own,
                    "by profile": unit * by_profile,
                    "error": by_profile / own - 1,
                    "by plan": unit * by_plan,
                    "error of plan": by_plan / own - 1,
                    "memory MB": measured.memory / 1e6,
                    "memory by plan": max(m.total for m in planned.memory) / 1e6,
                }
            )
    return rows


def _planned(
    contestant: Contestant, packages: Packages, splitter: Splitter, speeds: Speeds
) -> Estimate:
    network = packages.network(contestant)
    way = Alternative(
        name=contestant.name,
        strategy=contestant.strategy,
        network=network,
        trained=True,
        shares=lambda _: [],
    )
    split = splitter.split(network, contestant.strategy, contestant.shares)
    ranks = range(len(contestant.shares))
    return estimate(way, split, contestant.shares, speeds, ranks, contestant.wire, WINDOW)


def _speeds(profile: Profile) -> Speeds:
    workers = tuple(
        ClusterWorker(name=worker.name, address=f"127.0.0.1:{rank + 1}")
        for rank, worker in enumerate(profile.workers)
    )
    return cluster_speeds(ClusterFile(workers=workers), profile)


@dataclass(frozen=True, slots=True)
class Measured:
    """Median seconds of an image alone, images per second, most bytes above an idle worker."""

    latency: float
    rate: float
    memory: int


def _measure(cluster: Cluster, package: Package, shares: tuple[int, ...]) -> Measured:
    with _session(cluster, package, shares) as session:
        image = np.random.default_rng(0).standard_normal(
            package.plan.value(package.plan.inputs[0]).shape, dtype="float32"
        )
        session.run(image)
        latency = statistics.median(_seconds(session, image) for _ in range(5))
        # Long enough for the pace, and some 15 s at most.
        count = WINDOW + max(3 * WINDOW, min(60, round(12 / latency)))
        ends = []
        for _ in session.stream([image] * count, in_flight=WINDOW):
            ends.append(time.perf_counter())
        rate = (count - WINDOW) / (ends[-1] - ends[WINDOW - 1])
        return Measured(latency, rate, max(stats.peak_bytes for stats in session.stats()))


def _seconds(session: Session, image: Array) -> float:
    start = time.perf_counter()
    session.run(image)
    return time.perf_counter() - start


@contextmanager
def _session(cluster: Cluster, package: Package, shares: tuple[int, ...]) -> Iterator[Session]:
    with cluster.deploy(package, shares=shares) as session:
        yield session


def _uneven(clocks: Sequence[float]) -> list[Contestant]:
    """Return row strips in even and in uneven shares."""
    shares = proportional_shares(UNEVEN_GROUPS, clocks)
    return [Contestant("even", "rows", EVEN), Contestant("uneven", "rows", shares)]


def _uneven_row(
    cluster: Cluster, name: str, setting: Setting, packages: Packages
) -> dict[str, Any]:
    profile = measure_profile(cluster, packages.package(CONTESTANTS[0]))
    speeds = _speeds(profile)
    even, uneven = _uneven(speeds.clocks)
    progress(f"{name}, {setting.name}: one board at half speed, shares {uneven.shares}")
    splitter = Splitter(speeds.targets)
    planned = [_planned(one, packages, splitter, speeds) for one in (even, uneven)]
    measured = [
        _measure(cluster, packages.package(one), one.shares).latency for one in (even, uneven)
    ]
    gain = planned[0].latency_seconds / planned[1].latency_seconds
    return {
        "network": name,
        "boards": f"{setting.name}, one at half",
        "alternative": f"row strips {','.join(map(str, uneven.shares))} against even",
        "figure": "times as fast",
        "measured": measured[0] / measured[1],
        "by profile": None,
        "error": None,
        "by plan": gain,
        "error of plan": gain * measured[1] / measured[0] - 1,
        "memory MB": None,
        "memory by plan": None,
    }


def _summary(
    rows: Sequence[Mapping[str, Any]], uneven: Sequence[Mapping[str, Any]]
) -> dict[str, Figure]:
    def median(key: str) -> float:
        return float(statistics.median(abs(row[key]) for row in rows))

    return {
        "median error, by profile": Figure(median("error"), AIM, at_most=True),
        "median error, by plan": Figure(median("error of plan"), AIM, at_most=True),
        "choice by plan, against the best": Figure(_choices(rows), 0.95),
        "one board at half speed: uneven / even": Figure(
            min(row["measured"] for row in uneven), 1.0
        ),
    }


def _choices(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return what the plan's first choice gives against the measured best, at its worst."""
    kinds: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        kinds.setdefault((row["network"], row["boards"], row["figure"]), []).append(row)
    found = []
    for (_, _, figure), alike in kinds.items():
        sign = -1 if figure == "ms" else 1
        chosen = max(alike, key=lambda row: sign * row["by plan"])["measured"]
        best = max(alike, key=lambda row: sign * row["measured"])["measured"]
        found.append((chosen / best) ** sign)
    return float(min(found))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    result = parser("benchmarks.prediction", __doc__.splitlines()[0])
    result.add_argument(
        "--networks", nargs="+", choices=list(NETWORKS), default=["resnet50"], metavar="NAME"
    )
    result.add_argument(
        "--settings",
        nargs="+",
        type=int,
        choices=range(len(SETTINGS)),
        default=list(range(len(SETTINGS))),
        help="0: a quarter of a core and 1 Gb/s; 1: an eighth and 100 Mb/s (both)",
    )
    result.add_argument(
        "--packages",
        type=Path,
        default=Path("bench-out/packages"),
        help="folder that keeps what was compiled (%(default)s)",
    )
    result.add_argument("--compile-only", action="store_true", help="compile, and measure nothing")
    return result.parse_args(arguments)


if __name__ == "__main__":
    main()
