# SPDX-License-Identifier: Apache-2.0
"""How much of the communication is hidden, on four emulated boards with rate-limited links.

Each board has a part of a core and a link of its own (`benchmarks.emulated_boards`). The compute
bound is images per second of the slowest one with all stages on ready data under its quota. The
link bound is the link's rate over the bytes that a board sends or receives for an image, the
larger. Rates are chosen so that transfer takes 0.3, 1 and 2 times as long as computing. One image
at a time shows the latency, there also with row tiles, in turns; more in flight the throughput.
Neither bound counts the processor time of sending and receiving, which the quota covers as well: it
is shown beside that of the stages.

Needs Linux and root, for network namespaces, control groups and ``tc``.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.board_bounds import Bounds, compute_bound, moved_bytes
from benchmarks.emulated_boards import INSIDE, EmulatedBoards, run_isolated
from benchmarks.harness import Figure, interleave, parser, progress, report
from decnn_tvm.cli.samples import IMAGENET_MEAN, IMAGENET_STD
from decnn_tvm.compiler import TargetLike, compile_network
from decnn_tvm.decoupling import decouple
from decnn_tvm.demo.timeline_picture import draw_timeline, window_of
from decnn_tvm.errors import ClusterError
from decnn_tvm.frontend import load
from decnn_tvm.package import Package
from decnn_tvm.runtime import Cluster, Session
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.runtime.tensors import Array
from decnn_tvm.runtime.trace import KINDS
from decnn_tvm.testing import zoo

PRESET = "resnet50-x1.75"
BOARDS = 4
TILES = (1, 2, 4)
PARTS = (0.3, 1.0, 2.0)
IN_FLIGHT = (2, 4, 8)
AIM, AIM_IN_FLIGHT = 0.9, 4
DRAWN_FROM = 20
"""Images at the end of a stream, from the middle of which the picture is drawn."""
# A quota makes threads wait their turn: no reason to give a board up, or to move its groups.
POLICY = Policy(silence=5.0, beat=0.5, rebalance=False)


@dataclass(frozen=True, slots=True)
class Deployed:
    """A network at work on workers of its own; one board has one of each."""

    cluster: Cluster
    session: Session


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = _options(arguments)
    if INSIDE not in os.environ:
        given = sys.argv[1:] if arguments is None else arguments
        try:
            sys.exit(run_isolated("benchmarks.overlap", given))
        except ClusterError as error:
            sys.exit(f"benchmarks.overlap: {error}")
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 224, 224)).astype("uint8")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        packages = _compile(Path(folder), options)
        boards = stack.enter_context(EmulatedBoards(BOARDS, options.quota))
        images = compute_bound(boards, packages[1])
        progress(f"compute bound: {images:.2f} images/s")
        deployed = {1: stack.enter_context(_deployed(boards, packages[1]))}
        bounds = Bounds(
            images=images, moved=moved_bytes(deployed[1].cluster, deployed[1].session, image)
        )
        # Workers of other packages would take part of the quota, also where they only wait.
        rows = throughputs(boards, deployed[1].session, image, bounds, options)
        for tiles in TILES[1:]:
            deployed[tiles] = stack.enter_context(_deployed(boards, packages[tiles]))
        rows += latencies(boards, deployed, image, bounds, options.rounds)
    report(_title(options, bounds), rows, _summary(rows), options.json)


def throughputs(
    boards: EmulatedBoards,
    session: Session,
    image: Array,
    bounds: Bounds,
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """Return the rows with several images under way; draw a stream at the middle rate."""
    rows = []
    for part in PARTS:
        _limit(boards, bounds, part)
        for in_flight in IN_FLIGHT:
            runs = [throughput(boards, session, image, in_flight) for _ in range(options.rounds)]
            rate, spent = (statistics.median(column) for column in zip(*runs, strict=True))
            more = spent * bounds.images / options.quota
            rows.append(_row(part, bounds, 1, in_flight, rate, 1e3 * spent, more))
            progress(str(rows[-1]))
            if options.picture and (part, in_flight) == (PARTS[1], AIM_IN_FLIGHT):
                _draw(session, options.picture)
    return rows


def latencies(
    boards: EmulatedBoards,
    deployed: dict[int, Deployed],
    image: Array,
    bounds: Bounds,
    rounds: int,
) -> list[dict[str, Any]]:
    """Return the rows with one image under way, with and without row tiles."""
    reference = _output(deployed[1].session, image)
    rows = []
    for part in PARTS:
        _limit(boards, bounds, part)
        calls: dict[str, Callable[[], object]] = {
            str(tiles): partial(one.session.run, image) for tiles, one in deployed.items()
        }
        times = interleave(calls, rounds=rounds, seconds=1.5)
        for tiles, one in deployed.items():
            if not np.array_equal(_output(one.session, image), reference):
                raise AssertionError(f"{tiles} row tiles: another result")
            rows.append(_row(part, bounds, tiles, 1, 1 / times[str(tiles)].median))
            progress(str(rows[-1]))
    return rows


def _limit(boards: EmulatedBoards, bounds: Bounds, part: float) -> None:
    boards.limit(bounds.rate(part))
    progress(f"transfer {part:g} of computing: {bounds.rate(part) / 1e6:.0f} Mb/s a board")


def _draw(session: Session, path: Path) -> None:
    timeline = session.timeline(kinds=KINDS)
    last = max(event.sample for event in timeline)
    timeline = [event for event in timeline if event.sample > last - DRAWN_FROM]
    title = f"transfer as long as computing, {AIM_IN_FLIGHT} in flight, numbers name stages"
    draw_timeline(timeline, window_of(timeline), path, title)


def _output(session: Session, image: Array) -> Array:
    result = session.run(image)
    assert isinstance(result, np.ndarray)
    return result


def throughput(
    boards: EmulatedBoards,
    session: Session,
    image: Array,
    in_flight: int,
    seconds: float = 8.0,
) -> tuple[float, float]:
    """Return images per second of a stream in full swing, and a board's processor time for one.

    That is in seconds, of the board where it is the most.
    """

    def taken() -> list[float]:
        return [boards.processor_seconds(rank) for rank in range(BOARDS)]

    stream = session.stream(itertools.repeat(image), in_flight=in_flight)
    for _ in itertools.islice(stream, 2 * in_flight):
        pass
    before = taken()
    start, images, passed = time.perf_counter(), 0, 0.0
    while passed < seconds:
        next(stream)
        images, passed = images + 1, time.perf_counter() - start
    spent = [(after - b) / images for after, b in zip(taken(), before, strict=True)]
    return images / passed, max(spent)


def _row(
    part: float,
    bounds: Bounds,
    tiles: int,
    in_flight: int,
    images: float,
    processor: float | None = None,
    more: float | None = None,
) -> dict[str, Any]:
    return {
        "transfer / compute": part,
        "Mb/s": bounds.rate(part) / 1e6,
        "row tiles": tiles,
        "in flight": in_flight,
        "images/s": images,
        "latency ms": 1e3 / images if in_flight == 1 else None,
        "of the smaller bound": images / bounds.smaller(part),
        "processor ms an image": processor,
        "times that of the stages": more,
    }


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Figure]:
    summary = {
        f"of the bound, transfer {row['transfer / compute']:g} of computing, {AIM_IN_FLIGHT} in "
        "flight": Figure(row["of the smaller bound"], AIM)
        for row in rows
        if row["in flight"] == AIM_IN_FLIGHT
    }
    alone = {(r["transfer / compute"], r["row tiles"]): r for r in rows if r["in flight"] == 1}
    for (part, tiles), row in alone.items():
        if tiles > 1:
            name = f"latency, transfer {part:g} of computing: without / with {tiles} tiles"
            summary[name] = Figure(alone[part, 1]["latency ms"] / row["latency ms"], 1.0)
    return summary


def _compile(folder: Path, options: argparse.Namespace) -> dict[int, Package]:
    network = decouple(load(zoo.resnet(50)), preset=PRESET, weights="fresh")
    packages = {}
    for tiles in TILES:
        progress(f"row tiles {tiles}: compiling")
        packages[tiles] = compile_network(
            network,
            folder / f"tiles{tiles}",
            workers=BOARDS,
            wire=options.wire,
            image_mean=IMAGENET_MEAN,
            image_std=IMAGENET_STD,
            row_tiles=tiles,
            targets=[_target(options.mcpu)],
            all_shares=False,
        )
    return packages


def _target(mcpu: str) -> TargetLike:
    if mcpu == "host":
        return mcpu
    return {"kind": "llvm", "mtriple": f"{platform.machine()}-linux-gnu", "mcpu": mcpu}


@contextlib.contextmanager
def _deployed(boards: EmulatedBoards, package: Package) -> Iterator[Deployed]:
    addresses = [boards.start_worker(rank) for rank in range(BOARDS)]
    with Cluster.connect(addresses, host=boards.host, insecure=True) as cluster:
        with cluster.deploy(package, policy=POLICY) as session:
            yield Deployed(cluster, session)


def _title(options: argparse.Namespace, bounds: Bounds) -> str:
    return (
        f"{PRESET}, {options.wire}, {BOARDS} boards of {options.quota:g} cores: compute bound "
        f"{bounds.images:.2f} images/s, {bounds.moved / 1e6:.3f} MB an image and link"
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    result = parser("benchmarks.overlap", (__doc__ or "").splitlines()[0], rounds=3)
    result.add_argument(
        "--picture", type=Path, metavar="FILE.svg", help="draw who computed and received when"
    )
    result.add_argument("--wire", default="float32", help="wire type (%(default)s)")
    result.add_argument("--quota", type=float, default=0.25, help="cores of a board (%(default)s)")
    result.add_argument(
        "--mcpu",
        default="x86-64-v2",
        help="LLVM's name of a board's processor, or host (%(default)s: vectors of 128 bits)",
    )
    return result.parse_args(arguments)


if __name__ == "__main__":
    main()
