# SPDX-License-Identifier: Apache-2.0
"""What this process and its workers take: processes, ports, descriptors, threads, memory, time.

``python -m benchmarks.footprint`` shows what little a worker that waits and the coordinator of
ResNet-50 x1.75 on four local workers take. The coordinator is a process of its own, without the
compiler, as in use. Its processor time is that of all its threads, the kernel's part included. What
it takes for each second with a session open, and for each image of a stream on top of that, are
told apart by a slow and a fast stream. A wake is a voluntary context switch; what one costs that
does nothing is measured as well, since on a virtual machine most of the rest is just that.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.harness import Figure, parser, progress, report
from decnn_tvm.package import Package
from decnn_tvm.runtime import LocalCluster, Session
from decnn_tvm.runtime.machine import trim
from decnn_tvm.runtime.tensors import Array

WORKERS, IN_FLIGHT = 4, 4
SECONDS = 8.0
"""Of every measurement."""
SLOW = 4.0
"""Images per second of the slow stream."""
EMPTY_WAKES, WAKE_HERTZ = 200, 100.0
START = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """A process, or the sum of several; bytes are resident ones."""

    processes: int
    ports: int
    descriptors: int
    threads: int
    megabytes: float


def footprint(pids: Sequence[int] = ()) -> Footprint:
    """Return the sum over processes, this one by default, with all their children."""
    trim()
    found = []
    for pid in pids or (os.getpid(),):
        process = psutil.Process(pid)
        found += [process, *(process.children(recursive=True) if pids else ())]
    children = psutil.Process().children(recursive=True) if not pids else ()
    return Footprint(
        processes=len(found) + len(children),
        ports=sum(
            1 for p in found for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN
        ),
        descriptors=sum(p.num_fds() for p in found),
        threads=sum(p.num_threads() for p in found),
        megabytes=sum(p.memory_info().rss for p in found) / 1e6,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """What this process did in a time: images, processor seconds, wakes."""

    images: int
    seconds: float
    processor: float
    wakes: int

    def row(self, **what: object) -> dict[str, Any]:
        """Return it as a row of the report."""
        return {
            **what,
            "images/s": self.images / self.seconds or None,
            "ms a second": 1e3 * self.processor / self.seconds,
            "ms an image": 1e3 * self.processor / self.images if self.images else None,
            "wakes a second": self.wakes / self.seconds,
            "wakes an image": self.wakes / self.images if self.images else None,
        }


def effort(images: Iterator[object]) -> Effort:
    """Run through `images` and return what that took."""

    def now() -> tuple[float, float, int]:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return time.monotonic(), time.process_time(), usage.ru_nvcsw

    before = now()
    count = sum(1 for _ in images)
    seconds, processor, wakes = (b - a for a, b in zip(before, now(), strict=True))
    return Effort(images=count, seconds=seconds, processor=processor, wakes=int(wakes))


def coordinate(path: Path) -> dict[str, Any]:
    """Run a package on local workers and return what that takes; in a process of its own."""
    package = Package(path)
    value = package.plan.value(package.plan.inputs[0])
    image = np.random.default_rng(0).integers(0, 256, value.shape).astype(value.dtype)
    with LocalCluster(WORKERS, threads=1) as cluster:
        waiting, alone = footprint(cluster.process_ids), footprint()
        with cluster.deploy(package) as session:
            rows = list(_rows(session, image, value.dtype))
            at_work, deployed = footprint(), footprint(cluster.process_ids)
    return {
        "rows": rows,
        "a worker that waits, MB": waiting.megabytes / WORKERS,
        "a worker at work, MB": deployed.megabytes / WORKERS,
        "the coordinator, MB": alone.megabytes,
        "the coordinator at work, MB": at_work.megabytes,
        "a wake that does nothing, µs": _empty_wake(),
    }


def _rows(session: Session, image: Array, dtype: str) -> Iterator[dict[str, Any]]:
    for _ in session.stream(itertools.repeat(image, 5 * IN_FLIGHT)):
        pass
    yield effort(_nothing()).row(input=dtype, what="session open, nothing under way")
    slow = session.stream(_paced(image, SLOW), in_flight=1)
    yield effort(slow).row(input=dtype, what=f"stream, {SLOW:g} images/s")
    fast = session.stream(_paced(image, 1e6), in_flight=IN_FLIGHT)
    yield effort(fast).row(input=dtype, what=f"stream, {IN_FLIGHT} in flight")


def _nothing() -> Iterator[object]:
    time.sleep(SECONDS)
    yield from ()


def _paced(image: Array, rate: float) -> Iterator[Array]:
    start = time.monotonic()
    for number in itertools.count():
        time.sleep(max(0.0, start + number / rate - time.monotonic()))
        if time.monotonic() > start + SECONDS:
            return
        yield image


def _empty_wake() -> float:
    """Return the microseconds of processor time that a thread takes to wake and sleep again."""
    never, start = threading.Event(), time.thread_time()
    for _ in range(EMPTY_WAKES):
        never.wait(1 / WAKE_HERTZ)
    return 1e6 * (time.thread_time() - start) / EMPTY_WAKES


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parser("benchmarks.footprint", (__doc__ or "").splitlines()[0])
    options.add_argument("--coordinate", type=Path, metavar="PACKAGE", help="used by itself")
    chosen = options.parse_args(arguments)
    if chosen.coordinate:
        print(json.dumps(coordinate(chosen.coordinate)), flush=True)
        return
    with tempfile.TemporaryDirectory(prefix="decnn-footprint-") as folder:
        found = [_measured(path) for path in _packages(Path(folder))]
    rows = [row for one in found for row in one["rows"]]
    wake = found[-1]["a wake that does nothing, µs"]
    title = f"what the coordinator takes, where a wake that does nothing takes {wake:.0f} µs"
    report(title, rows, _summary(found), chosen.json)


def _packages(folder: Path) -> list[Path]:
    # Here alone: the coordinator's process must not load the compiler.
    from decnn_tvm.cli.samples import IMAGENET_MEAN, IMAGENET_STD
    from decnn_tvm.compiler import compile_network
    from decnn_tvm.decoupling import decouple
    from decnn_tvm.frontend import load
    from decnn_tvm.testing import zoo

    network = decouple(load(zoo.resnet(50)), preset="resnet50-x1.75", weights="fresh")
    progress("compiling")
    pixels = {"wire": "float16", "image_mean": IMAGENET_MEAN, "image_std": IMAGENET_STD}
    given: dict[str, dict[str, Any]] = {"float32": {}, "pixels": pixels}
    for name, more in given.items():
        compile_network(network, folder / name, workers=WORKERS, all_shares=False, **more)
    return [folder / name for name in given]


def _measured(package: Path) -> dict[str, Any]:
    progress(f"{package.name}: measuring")
    command = [sys.executable, "-m", "benchmarks.footprint", "--coordinate", str(package)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=START + 4 * SECONDS)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _summary(found: Sequence[dict[str, Any]]) -> dict[str, Figure]:
    summary = {
        f"ms an image, all counted, {one['rows'][-1]['input']} in": Figure(
            one["rows"][-1]["ms an image"], 1.0, at_most=True
        )
        for one in found
    }
    limits = {
        "a worker that waits, MB": 60.0,
        "a worker at work, MB": 150.0,
        "the coordinator, MB": 60.0,
        "the coordinator at work, MB": 100.0,
    }
    return summary | {
        name: Figure(found[-1][name], limit, at_most=True) for name, limit in limits.items()
    }


if __name__ == "__main__":
    main()
