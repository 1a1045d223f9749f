# SPDX-License-Identifier: Apache-2.0
"""What a package gives on a cluster: latency, rate and memory."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np

from decnn_tvm.package import Package
from decnn_tvm.runtime import Cluster, Session
from decnn_tvm.runtime.tensors import Array

STREAM = 7.0
"""Seconds of a stream, about."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Median seconds of an image alone, images per second, most bytes above an idle worker."""

    latency: float
    rate: float
    memory: int


def measure(cluster: Cluster, package: Package, shares: tuple[int, ...], window: int) -> Measured:
    """Deploy a package and measure: one image alone, and a stream with `window` under way."""
    with cluster.deploy(package, shares=shares) as session:
        image = np.random.default_rng(0).standard_normal(
            package.plan.value(package.plan.inputs[0]).shape, dtype="float32"
        )
        session.run(image)
        latency = statistics.median(_seconds(session, image) for _ in range(5))
        # Whole windows, since results may leave so.
        windows = max(3, round(STREAM / latency / window))
        count = window * (1 + windows)
        ends = []
        for _ in session.stream([image] * count, in_flight=window):
            ends.append(time.perf_counter())
        rate = (count - window) / (ends[-1] - ends[window - 1])
        return Measured(latency, rate, max(stats.peak_bytes for stats in session.stats()))


def _seconds(session: Session, image: Array) -> float:
    start = time.perf_counter()
    session.run(image)
    return time.perf_counter() - start
