# SPDX-License-Identifier: Apache-2.0
"""How fast one device runs all stages of a package on data that is there: its compute bound.

``python -m benchmarks.ready_data PACKAGE GROUPS SECONDS`` prints images per second as JSON. It runs
where the device runs, under the same quota.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

import numpy as np

from decnn_tvm.package import Package
from decnn_tvm.plan import Indices, Plan
from decnn_tvm.runtime.library import StageLibrary
from decnn_tvm.runtime.tensors import Array, aligned_empty
from decnn_tvm.runtime.weights import DeviceWeights


def images_per_second(package: Package, groups: Indices, seconds: float) -> float:
    """Return how many images the stages of these channel groups compute in a second."""
    (target,) = package.manifest.targets
    path = package.file(package.library(target, len(groups)))
    library = StageLibrary(path, package.plan, DeviceWeights(package, groups))
    ready = _inputs(package.plan, len(groups))
    _one(library, package.plan, ready)
    start, images = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds:
        _one(library, package.plan, ready)
        images += 1
    return images / passed


def _one(library: StageLibrary, plan: Plan, ready: dict[str, list[Array]]) -> None:
    for stage in plan.stages:
        library(stage.function, ready[stage.function])


def _inputs(plan: Plan, count: int) -> dict[str, list[Array]]:
    rng = np.random.default_rng(0)
    ready: dict[str, list[Array]] = {}
    for stage in plan.stages:
        arrays = []
        for value in (plan.value(name) for name in stage.inputs):
            array = aligned_empty(value.physical_shape(count), value.dtype)
            array[...] = rng.integers(0, 2, array.shape)
            arrays.append(array)
        ready[stage.function] = arrays
    return ready


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the result."""
    package, groups, seconds = sys.argv[1:] if arguments is None else arguments
    indices = tuple(int(group) for group in groups.split(","))
    print(json.dumps(images_per_second(Package(package), indices, float(seconds))), flush=True)


if __name__ == "__main__":
    main()
