# SPDX-License-Identifier: Apache-2.0
"""A stream of images while devices are killed, frozen, cut off, slowed down and sent garbage.

Workers on loopback reach each other and the coordinator through proxies of this process. At a
random image a random fault happens to a random worker or link; when the stream has recovered and
every worker is back, the next one follows. The seed decides the order of faults.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.fault_campaign import KINDS, Campaign, Outcome, campaign
from benchmarks.harness import Figure, parser, report
from benchmarks.streaming import Streaming, decoupled_resnet50, small_network


def rows_of(outcomes: list[Outcome], label: str) -> list[dict[str, Any]]:
    """Return a row for each kind of fault."""
    rows = []
    for kind in KINDS:
        some = [o for o in outcomes if o.kind == kind]
        if some:
            rows.append(
                {
                    "network": label,
                    "fault": kind,
                    "count": len(some),
                    "next output, median s": statistics.median(o.next_output for o in some),
                    "worst s": max(o.next_output for o in some),
                    "longest pause, s": max(o.pause for o in some),
                    "all back, median s": statistics.median(o.whole for o in some),
                }
            )
    return rows


def main() -> None:
    """Run the benchmark."""
    arguments = parser("benchmarks.faults", (__doc__ or "").splitlines()[0], rounds=200)
    arguments.add_argument("--seed", type=int, default=0, help="order of the faults (0)")
    arguments.add_argument(
        "--resnet50", type=int, default=5, metavar="N", help="faults with ResNet-50 x1.75 (5)"
    )
    options = arguments.parse_args()
    start = time.monotonic()
    rows: list[dict[str, Any]] = []
    summary: dict[str, Figure] = {}
    with tempfile.TemporaryDirectory(prefix="decnn-faults-") as folder:
        if options.rounds:
            rows += _small(options, Path(folder), summary)
            summary["minutes of the whole run"] = Figure(
                (time.monotonic() - start) / 60, 30.0, at_most=True
            )
        if options.resnet50:
            rows += _large(options, Path(folder), summary)
    report("faults", rows, summary, options.json)


def _small(
    options: argparse.Namespace, folder: Path, summary: dict[str, Figure]
) -> list[dict[str, Any]]:
    streaming = small_network(folder)
    outcomes: list[Outcome] = []
    rows: list[dict[str, Any]] = []
    for workers, count in ((3, options.rounds // 2), (4, options.rounds - options.rounds // 2)):
        run = campaign(streaming, workers, count, options.seed + workers, (20, 60))
        outcomes += run.outcomes
        rows += rows_of(run.outcomes, f"32x32, {workers} workers")
        _summarize(streaming, workers, run, summary)
    images = sum(f.value for name, f in summary.items() if name.startswith("images"))
    summary["images in all"] = Figure(images, 5000.0)
    _times(outcomes, "32x32", summary)
    return rows


def _large(
    options: argparse.Namespace, folder: Path, summary: dict[str, Figure]
) -> list[dict[str, Any]]:
    streaming = decoupled_resnet50(folder)
    run = campaign(streaming, 4, options.resnet50, options.seed, (5, 10))
    _times(run.outcomes, "ResNet-50", summary)
    _summarize(streaming, 4, run, summary, "ResNet-50, ")
    return rows_of(run.outcomes, "ResNet-50 x1.75, 4 workers")


def _times(outcomes: list[Outcome], label: str, summary: dict[str, Figure]) -> None:
    times = [o.next_output for o in outcomes]
    summary[f"{label}: next output, median s"] = Figure(statistics.median(times), 1.0, at_most=True)
    summary[f"{label}: next output, worst s"] = Figure(max(times), 3.0, at_most=True)
    summary[f"{label}: longest pause, s"] = Figure(
        max(o.pause for o in outcomes), 3.0, at_most=True
    )


def _summarize(
    streaming: Streaming,
    workers: int,
    run: Campaign,
    summary: dict[str, Figure],
    label: str = "",
) -> None:
    on = f"{label}{workers} workers"
    lost = streaming.submitted - streaming.delivered
    summary[f"images, {on}"] = Figure(float(streaming.delivered), 1.0)
    summary[f"lost, {on}"] = Figure(float(lost), 0.0, at_most=True)
    summary[f"wrong, {on}"] = Figure(float(streaming.wrong), 0.0, at_most=True)
    summary[f"equal to the undisturbed run to the bit, {on}"] = Figure(
        streaming.same_bits / max(1, streaming.delivered), 0.0
    )
    # Two threads win back workers; they begin with the first that is lost.
    before, after = run.before, run.after
    threads = float(after.threads - before.threads)
    summary[f"growth in threads, {on}"] = Figure(threads, 2.0, at_most=True)
    for name in ("processes", "ports", "descriptors"):
        growth = getattr(after, name) - getattr(before, name)
        summary[f"growth in {name}, {on}"] = Figure(float(growth), 0.0, at_most=True)
    summary[f"growth in MB, {on}"] = Figure(after.megabytes - before.megabytes, 20.0, at_most=True)
    grown = (run.workers_after.megabytes - run.workers_before.megabytes) / workers
    summary[f"growth in MB of a worker, {on}"] = Figure(grown, 20.0, at_most=True)


if __name__ == "__main__":
    main()
