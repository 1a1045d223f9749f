# SPDX-License-Identifier: Apache-2.0
"""How fast one device runs all stages of a package on data that is there: its compute bound.

``python -m benchmarks.ready_data PACKAGE GROUPS SECONDS`` prints images per second as JSON. It runs
where the device runs, under the same quota.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from decnn_tvm.package import Package
from decnn_tvm.plan import Indices
from decnn_tvm.runtime.library import StageLibrary
from decnn_tvm.runtime.stage_timing import time_stages
from decnn_tvm.runtime.weights import DeviceWeights


def images_per_second(package: Package, groups: Indices, seconds: float) -> float:
    """Return how many images the stages of these channel groups compute in a second."""
    (target,) = package.manifest.targets
    path = package.file(package.library(target, len(groups)))
    library = StageLibrary(path, package.plan, DeviceWeights(package, groups))
    stages = time_stages(library, package.plan, groups, seconds)
    return 1 / float(sum(stage["seconds"] for stage in stages))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the result."""
    package, groups, seconds = sys.argv[1:] if arguments is None else arguments
    indices = tuple(int(group) for group in groups.split(","))
    print(json.dumps(images_per_second(Package(package), indices, float(seconds))), flush=True)


if __name__ == "__main__":
    main()
