# SPDX-License-Identifier: Apache-2.0
"""Which kernels a device's computing goes to: as the cost model sees it, or as it was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from decnn_tvm.planning.layer_costs import LayerCost
from decnn_tvm.profiling.profile import WorkerProfile
from decnn_tvm.report.charts import Bar
from decnn_tvm.report.drawing import COLOURS

LONGEST = 12
"""Layers, stages or kernels whose share of the time is shown one by one."""


def estimated_bars(costs: Iterable[LayerCost]) -> list[Bar]:
    """Return the share of each kind of kernel, and of the longest layers, in percent."""
    kinds: Counter[str] = Counter()
    layers: Counter[tuple[str, str]] = Counter()
    for cost in costs:
        kinds[cost.kind] += cost.cycles  # type: ignore[assignment]
        layers[cost.name, cost.kind] += cost.cycles  # type: ignore[assignment]
    colours = {kind: f"f{i % COLOURS}" for i, (kind, _) in enumerate(kinds.most_common())}
    total = sum(kinds.values())
    bars = [_bar(f"all {kind}", colours[kind], n, total) for kind, n in kinds.most_common()]
    return bars + [
        _bar(name, colours[kind], n, total, what=kind)
        for (name, kind), n in layers.most_common(LONGEST)
    ]


def busiest_worker(workers: Iterable[WorkerProfile]) -> WorkerProfile:
    """Return the worker whose stages take the longest together."""
    return max(workers, key=lambda worker: sum(stage.seconds for stage in worker.stages))


def measured_bars(worker: WorkerProfile) -> list[Bar]:
    """Return the measured share of the longest stages and of the longest kernels, in percent.

    A kernel goes by the compiler's name, behind that of its stage. Calls of kernels and
    allocations, which a stage takes beside them, are spread over its kernels.
    """
    stages = {f"all of {stage.function}": stage.seconds for stage in worker.stages}
    kernels = {
        f"{stage.function}: {name}": share * stage.seconds
        for stage in worker.stages
        for name, share in stage.kernels.items()
    }
    total = sum(stages.values())
    return [
        _bar(name, style, seconds, total)
        for style, shares in (("f0", stages), ("f1", kernels))
        for name, seconds in sorted(shares.items(), key=lambda each: -each[1])[:LONGEST]
    ]


def _bar(name: str, style: str, part: float, total: float, what: str = "") -> Bar:
    return Bar(name, ((style, what or name, 100 * part / total),))
