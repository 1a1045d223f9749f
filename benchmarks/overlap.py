# SPDX-License-Identifier: Apache-2.0
"""Latency of one image at a time over slow links, with and without row tiles.

Four local workers run ResNet-50 x1.75 in a network namespace of their own, whose loopback carries a
set rate: all links together, as four of a quarter of it would. Rates are chosen so that what is
sent in exchanges takes 0.3, 1 and 2 times as long as the four workers compute. In turns, each
contestant sends one image after another, with nothing else under way.

Needs Linux and root, or unprivileged user namespaces.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Figure, Timing, interleave, parser, progress, report
from decnn_tvm.compiler import compile_network
from decnn_tvm.decoupling import decouple
from decnn_tvm.errors import ClusterError
from decnn_tvm.frontend import load
from decnn_tvm.runtime import LocalCluster, Session
from decnn_tvm.runtime.tensors import Array
from decnn_tvm.testing import zoo

PRESET = "resnet50-x1.75"
WORKERS = 4
TILES = (1, 2, 4)
PARTS = (0.3, 1.0, 2.0)
BURST, QUEUE = 256 << 10, "200ms"
INSIDE = "DECNN_BENCHMARK_NAMESPACE"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = _options(arguments)
    if INSIDE not in os.environ:
        sys.exit(_run_in_namespace(sys.argv[1:] if arguments is None else arguments))
    _command("ip", "link", "set", "lo", "up")
    network = decouple(load(zoo.resnet(50)), preset=PRESET, weights="fresh")
    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, 3, 224, 224), dtype="float32")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        sessions = {}
        for tiles in TILES:
            progress(f"row tiles {tiles}: compiling")
            out = Path(folder) / f"tiles{tiles}"
            package = compile_network(
                network, out, workers=WORKERS, wire=options.wire, row_tiles=tiles
            )
            cluster = stack.enter_context(LocalCluster(WORKERS, threads=1))
            sessions[tiles] = stack.enter_context(cluster.deploy(package))
        rows = measure(sessions, image, options.rounds)
    summary = {
        f"latency at {row['transfer / compute']}: without / with {row['row tiles']} tiles": Figure(
            row["without tiles / this"], 1.0
        )
        for row in rows
        if row["row tiles"] > 1
    }
    report(f"{PRESET}, one image under way, {options.wire}", rows, summary, options.json)


def measure(sessions: dict[int, Session], image: Array, rounds: int) -> list[dict[str, Any]]:
    """Return the rows of all rates."""
    reference = _output(sessions[1], image)
    largest = float(np.abs(reference).max())
    compute, sent = _work(sessions[1], image)
    rows = []
    for part in PARTS:
        rate = 8 * sent / (part * compute)
        _limit(rate)
        progress(f"{rate / 1e6:.0f} Mb/s")
        calls: dict[str, Callable[[], object]] = {
            str(tiles): partial(session.run, image) for tiles, session in sessions.items()
        }
        times = interleave(calls, rounds=rounds, seconds=1.5)
        for tiles, session in sessions.items():
            error = float(np.abs(_output(session, image) - reference).max()) / largest
            rows.append(_row(part, rate, tiles, times, error))
    return rows


def _output(session: Session, image: Array) -> Array:
    result = session.run(image)
    assert isinstance(result, np.ndarray)
    return result


def _row(
    part: float, rate: float, tiles: int, times: dict[str, Timing], error: float
) -> dict[str, Any]:
    return {
        "transfer / compute": part,
        "Mb/s in all": rate / 1e6,
        "row tiles": tiles,
        "latency ms": 1e3 * times[str(tiles)].median,
        "without tiles / this": times[str(tiles)].times_faster_than(times["1"]),
        "difference": error,
    }


def _work(session: Session, image: Array) -> tuple[float, float]:
    """Return seconds that workers compute for an image, and bytes that they exchange, in all.

    Half as many cores as workers halve the speed of each, which their own clocks include.
    """
    for _ in range(5):
        session.run(image)
    before = session.stats()
    start = time.perf_counter()
    for _ in range(10):
        session.run(image)
    progress(f"unlimited: {100 * (time.perf_counter() - start):.1f} ms an image")
    after = session.stats()
    seconds = [b.compute_seconds - a.compute_seconds for a, b in zip(before, after, strict=True)]
    sent = sum(sum(stats.sent_bytes.values()) / stats.samples for stats in after)
    return max(seconds) / 10, sent


def _limit(rate: float) -> None:
    """Let the loopback of this namespace carry `rate` bits per second."""
    _command(
        *("tc", "qdisc", "replace", "dev", "lo", "root", "tbf", "rate", f"{rate:.0f}"),
        *("burst", str(BURST), "latency", QUEUE),
    )


def _run_in_namespace(arguments: Sequence[str]) -> int:
    """Run this module again in a network namespace that ends with it."""
    isolate = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--net"]
    command = [*isolate, sys.executable, "-m", "benchmarks.overlap", *arguments]
    return subprocess.run(command, env={**os.environ, INSIDE: "1"}, check=False).returncode


def _command(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}. Run it as root.")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    result = parser("benchmarks.overlap", __doc__.splitlines()[0], rounds=5)
    result.add_argument("--wire", default="float32", help="wire type (%(default)s)")
    return result.parse_args(arguments)


if __name__ == "__main__":
    main()
