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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.emulated_boards import INSIDE, EmulatedBoards, run_isolated
from benchmarks.harness import Figure, parser, progress, report, write
from benchmarks.measured_session import measure
from benchmarks.prediction_cases import (
    BOARDS,
    CONTESTANTS,
    NETWORKS,
    SETTINGS,
    Contestant,
    Packages,
    Setting,
    even_and_uneven,
)
from decnn_tvm.cluster_file import ClusterFile, ClusterWorker
from decnn_tvm.planning.alternatives import Alternative
from decnn_tvm.planning.estimates import Estimate, estimate
from decnn_tvm.planning.prediction import predict
from decnn_tvm.planning.speeds import Speeds, cluster_speeds
from decnn_tvm.planning.splits import Splitter
from decnn_tvm.profiling import measure_profile
from decnn_tvm.runtime import Cluster

TITLE = "predicted against measured, four boards"
AIM = 0.15
"""Median error of what is predicted."""
WINDOW = 4
PROFILE = 1.0
"""Seconds for stages, and for samples."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = _options(arguments)
    made = {name: Packages(name, options.packages) for name in options.networks}
    if INSIDE not in os.environ:
        for packages in made.values():
            for contestant in (*CONTESTANTS, *even_and_uneven((1.0, 1.0, 1.0, 0.5))):
                packages.package(contestant)
        if not options.compile_only:
            own = sys.argv[1:] if arguments is None else arguments
            sys.exit(run_isolated("benchmarks.prediction", own))
        return
    rows: list[dict[str, Any]] = []
    uneven: list[dict[str, Any]] = []
    with EmulatedBoards(BOARDS, SETTINGS[0].quota) as boards:
        for setting in (SETTINGS[index] for index in options.settings):
            for rank in range(BOARDS):
                boards.slow_down(rank, setting.quota)
            boards.limit(setting.rate)
            for name, packages in made.items():
                rows += _rows(boards, name, setting, packages)
                _keep(rows, uneven, options.json)
            boards.slow_down(BOARDS - 1, setting.quota / 2)
            for name, packages in made.items():
                uneven.append(_uneven_row(boards, name, setting, packages))
                _keep(rows, uneven, options.json)
    report(TITLE, rows + uneven, _summary(rows, uneven), options.json)


def _keep(rows: list[dict[str, Any]], uneven: list[dict[str, Any]], path: Path | None) -> None:
    """Write what was measured so far, so that a later failure loses none of it."""
    if path is not None:
        write(TITLE, rows + uneven, _summary(rows, uneven), path)


@contextmanager
def _fresh_workers(boards: EmulatedBoards) -> Iterator[Cluster]:
    """Start workers, whose memory nothing was kept in, and end them."""
    addresses = [boards.start_worker(rank) for rank in range(BOARDS)]
    try:
        with closing(
            Cluster.connect(addresses, host=boards.host, insecure=True, timeout=120.0)
        ) as cluster:
            yield cluster
    finally:
        boards.stop()


def _rows(
    boards: EmulatedBoards, name: str, setting: Setting, packages: Packages
) -> list[dict[str, Any]]:
    speeds = _speeds(boards, packages)
    splitter = Splitter(speeds.targets)
    rows = []
    for contestant in CONTESTANTS:
        progress(f"{name}, {setting.name}: {contestant.name}")
        package = packages.package(contestant)
        with _fresh_workers(boards) as cluster:
            measured = measure(cluster, package, contestant.shares, WINDOW)
            profile = measure_profile(cluster, package, shares=contestant.shares, seconds=PROFILE)
        planned = _planned(contestant, packages, splitter, speeds)
        alone = predict(profile, package.plan, window=1, samples=2)
        stream = predict(profile, package.plan, window=WINDOW, samples=6 * WINDOW)
        memory = max(each.total for each in planned.memory)
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
                    "memory by plan": memory / 1e6,
                    "error of memory": memory / measured.memory - 1,
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
        shares=lambda speeds, caps: [],
    )
    split = splitter.split(network, contestant.strategy, contestant.shares)
    ranks = range(len(contestant.shares))
    return estimate(way, split, contestant.shares, speeds, ranks, contestant.wire, WINDOW)


def _speeds(boards: EmulatedBoards, packages: Packages) -> Speeds:
    """Return what a profile of the whole network on each board tells."""
    with _fresh_workers(boards) as cluster:
        profile = measure_profile(cluster, packages.package(CONTESTANTS[0]), seconds=PROFILE)
    workers = tuple(
        ClusterWorker(name=worker.name, address=f"127.0.0.1:{rank + 1}")
        for rank, worker in enumerate(profile.workers)
    )
    return cluster_speeds(ClusterFile(workers=workers), profile)


def _uneven_row(
    boards: EmulatedBoards, name: str, setting: Setting, packages: Packages
) -> dict[str, Any]:
    speeds = _speeds(boards, packages)
    even, uneven = even_and_uneven(speeds.clocks)
    progress(f"{name}, {setting.name}: one board at half speed, shares {uneven.shares}")
    splitter = Splitter(speeds.targets)
    planned = [_planned(one, packages, splitter, speeds) for one in (even, uneven)]
    with _fresh_workers(boards) as cluster:
        measured = [
            measure(cluster, packages.package(one), one.shares, WINDOW).latency
            for one in (even, uneven)
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
        "error of memory": None,
    }


def _summary(
    rows: Sequence[Mapping[str, Any]], uneven: Sequence[Mapping[str, Any]]
) -> dict[str, Figure]:
    def median(key: str) -> float:
        return float(statistics.median(abs(row[key]) for row in rows))

    found = {
        "median error, by profile": Figure(median("error"), AIM, at_most=True),
        "median error, by plan": Figure(median("error of plan"), AIM, at_most=True),
        "median error of memory, by plan": Figure(median("error of memory"), AIM, at_most=True),
        "plan's choice within 5 % of the best, of cases": Figure(_choices(rows), 0.9),
    }
    if uneven:
        least = min(row["measured"] for row in uneven)
        found["one board at half speed: uneven / even"] = Figure(least, 1.0)
    return found


def _choices(rows: Sequence[Mapping[str, Any]]) -> float:
    """Return in how many cases of all the plan's first choice is at most 5 % below the best."""
    kinds: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        kinds.setdefault((row["network"], row["boards"], row["figure"]), []).append(row)
    found = []
    for (_, _, figure), alike in kinds.items():
        sign = -1 if figure == "ms" else 1
        chosen = max(alike, key=lambda row: sign * row["by plan"])["measured"]
        best = max(alike, key=lambda row: sign * row["measured"])["measured"]
        found.append((chosen / best) ** sign >= 0.95)
    return float(sum(found) / len(found))


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
