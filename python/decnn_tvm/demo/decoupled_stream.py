# SPDX-License-Identifier: Apache-2.0
"""The second half of the demo: ResNet-50, decoupled, with images streaming through it."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from decnn_tvm.compiler import compile_network
from decnn_tvm.decoupling import decouple
from decnn_tvm.demo.data import Array, imagenet_sample
from decnn_tvm.demo.exact_split import Comparison
from decnn_tvm.frontend import load, save_onnx
from decnn_tvm.package_writer import Progress
from decnn_tvm.runtime import LocalCluster, Session
from decnn_tvm.runtime.statistics import DeviceStats, TimelineEvent
from decnn_tvm.runtime.trace import KINDS
from decnn_tvm.testing.equality import reference_outputs
from decnn_tvm.testing.zoo import resnet

PRESET = "resnet50-x1.75"
WORKERS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReport:
    """What was measured.

    Attributes
    ----------
    onnx_file : Path
        The decoupled network as ONNX.
    logits : Comparison
        Against ONNX Runtime running that file.
    movements : tuple of str
        Kind of every movement of the plan, in order.
    latency : float
        Median seconds of an image with nothing else under way.
    throughput : float
        Images per second with `in_flight` images under way.
    images, in_flight : int
        Length and window of that stream.
    devices : tuple of DeviceStats
        What each device did in that stream alone.
    timeline : tuple of TimelineEvent
        What devices did in that stream: stages, waits, sends and receives.
    """

    onnx_file: Path
    logits: Comparison
    movements: tuple[str, ...]
    latency: float
    throughput: float
    images: int
    in_flight: int
    devices: tuple[DeviceStats, ...]
    timeline: tuple[TimelineEvent, ...]


def stream_decoupled(
    photographs: Sequence[Path],
    folder: Path,
    *,
    images: int,
    in_flight: int = 4,
    progress: Progress | None = None,
) -> StreamReport:
    """Decouple an untrained ResNet-50, split it over four local workers and stream images.

    Parameters
    ----------
    photographs : sequence of Path
        Images; repeated until there are `images` of them.
    folder : Path
        Where the ONNX file and the package go.
    images : int
        Images to stream.
    in_flight : int
        Images under way at once.
    progress : callable, optional
        Told of the compiler's steps.
    """
    # Fresh weights tell photographs apart more clearly than those inherited from random ones.
    network = decouple(load(resnet(50), name="resnet50"), preset=PRESET, weights="fresh")
    onnx_file = folder / f"{PRESET}.onnx"
    save_onnx(network, onnx_file)
    package = compile_network(network, folder / f"{PRESET}.pkg", workers=WORKERS, progress=progress)
    samples = [imagenet_sample(path) for path in photographs]
    with LocalCluster(WORKERS) as cluster, cluster.deploy(package) as session:
        results = [session.run(x) for x in samples]
        latency = statistics.median(_seconds(session, x) for x in samples)
        before = session.stats()
        start = time.perf_counter()
        for _ in session.stream(islice(cycle(samples), images), in_flight=in_flight):
            pass
        seconds = time.perf_counter() - start
        after, timeline = session.stats(), session.timeline(kinds=KINDS)
    return StreamReport(
        onnx_file=onnx_file,
        logits=Comparison(
            output=package.plan.outputs[0],
            ours=tuple(r for r in results if not isinstance(r, dict)),
            reference=tuple(reference_outputs(onnx_file, samples)),
        ),
        movements=tuple(movement.kind for movement in package.plan.movements),
        latency=latency,
        throughput=images / seconds,
        images=images,
        in_flight=in_flight,
        devices=tuple(since(a, b) for a, b in zip(after, before, strict=True)),
        timeline=tuple(event for event in timeline if event.sample >= 2 * len(samples)),
    )


def since(after: DeviceStats, before: DeviceStats) -> DeviceStats:
    """Return what a device did between two looks at it; memory is as of the second."""
    sent = {name: n - before.sent_bytes.get(name, 0) for name, n in after.sent_bytes.items()}
    return dataclasses.replace(
        after,
        sent_bytes=sent,
        compute_seconds=after.compute_seconds - before.compute_seconds,
        wait_seconds=after.wait_seconds - before.wait_seconds,
        samples=after.samples - before.samples,
    )


def _seconds(session: Session, sample: Array) -> float:
    start = time.perf_counter()
    session.run(sample)
    return time.perf_counter() - start
