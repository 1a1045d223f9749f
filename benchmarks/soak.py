# SPDX-License-Identifier: Apache-2.0
"""Images for minutes at full load: memory and descriptors stay what they are after warming up."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.footprint import Footprint, footprint
from benchmarks.harness import Figure, parser, progress, report
from benchmarks.streaming import Streaming, small_network
from decnn_tvm.runtime import LocalCluster, Session
from decnn_tvm.runtime.policy import Policy

WORKERS = 4
IN_FLIGHT = 4
POINTS = 20
"""Looks at the processes."""
WARM_UP = 0.2
"""Part of the looks before memory has to be flat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The state at a time: this process, and all workers together."""

    minutes: float
    images: int
    coordinator: Footprint
    workers: Footprint


def soak(minutes: float, streaming: Streaming) -> list[Look]:
    """Stream for `minutes` and look at the processes at equal intervals."""
    # Noise on a busy machine would move groups, and with them memory.
    policy = Policy(rebalance=False)
    with LocalCluster(WORKERS, threads=1) as cluster:
        with cluster.deploy(streaming.package, policy=policy) as session:
            return _looks(minutes, streaming, cluster.process_ids, session)


def _looks(
    minutes: float, streaming: Streaming, pids: Sequence[int], session: Session
) -> list[Look]:
    streaming.begin(session)
    start = time.monotonic()
    looks: list[Look] = []
    for output in session.stream(streaming.source(), in_flight=IN_FLIGHT):
        streaming.check(output)
        passed = (time.monotonic() - start) / 60
        if passed >= minutes * (len(looks) + 1) / POINTS:
            workers = footprint(pids)
            looks.append(
                Look(
                    minutes=passed,
                    images=streaming.delivered,
                    coordinator=footprint(),
                    workers=workers,
                )
            )
            progress(str(looks[-1]))
            streaming.ended = len(looks) == POINTS
    return looks


def growth(looks: Sequence[Look], who: str, what: str) -> float:
    """Return how much the median of the last quarter exceeds that of the first after warm-up."""
    values = [getattr(getattr(look, who), what) for look in looks[round(WARM_UP * POINTS) :]]
    quarter = max(1, len(values) // 4)
    return float(statistics.median(values[-quarter:]) - statistics.median(values[:quarter]))


def main() -> None:
    """Run the benchmark."""
    arguments = parser("benchmarks.soak", (__doc__ or "").splitlines()[0])
    arguments.add_argument("--minutes", type=float, default=20.0, help="how long (20)")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="decnn-soak-") as folder:
        streaming = small_network(Path(folder))
        looks = soak(options.minutes, streaming)
    rows: list[dict[str, Any]] = [
        {
            "minutes": look.minutes,
            "images": look.images,
            "coordinator, MB": look.coordinator.megabytes,
            "descriptors": look.coordinator.descriptors,
            "workers, MB": look.workers.megabytes,
            "descriptors of workers": look.workers.descriptors,
        }
        for look in looks
    ]
    summary = {
        "wrong": Figure(float(streaming.wrong), 0.0, at_most=True),
        "images": Figure(float(streaming.delivered), 1.0),
        "images per second": Figure(streaming.delivered / (60 * looks[-1].minutes), 1.0),
    }
    for who in ("coordinator", "workers"):
        for what, limit in (("megabytes", 5.0), ("descriptors", 0.0), ("threads", 0.0)):
            summary[f"{who}: growth in {what}"] = Figure(
                growth(looks, who, what), limit, at_most=True
            )
    report("soak", rows, summary, options.json)


if __name__ == "__main__":
    main()
