# SPDX-License-Identifier: Apache-2.0
"""What a worker's process takes, above what it takes idle.

Held against ResNet-50 on four workers, split in five ways (docs/RESULTS.md): packed weights were
within 1 %, the most that each process took within 19 %, in the median within 4 %.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from decnn_tvm.plan import Indices, Plan
from decnn_tvm.planning.layer_costs import LayerCost
from decnn_tvm.planning.splits import Split
from decnn_tvm.simulation import Outcome
from decnn_tvm.targets import CpuTarget

IDLE_BYTES = 60 << 20
"""What a worker process takes before it has any work: Python, NumPy, ZeroMQ and TVM's runtime."""
SESSION_BYTES = 2 << 20
"""Code, sockets and what Python keeps of a deployment."""
KEPT = 2.5
"""Tensors take so many times their bytes: allocators keep what is free, by size, and messages hold
what they send. Measured: 1.4 to 3.6 times."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes on one device.

    Attributes
    ----------
    weights : int
        Packed weights.
    workspace : int
        The largest tensors within a stage.
    buffers : int
        Tensors between stages, of all samples under way.
    loading : int
        What is taken at most while weights are packed, those of a stage being there twice then.
    """

    weights: int
    workspace: int
    buffers: int
    loading: int

    @property
    def running(self) -> int:
        """While samples are under way."""
        return SESSION_BYTES + self.weights + self.workspace + self.buffers

    @property
    def total(self) -> int:
        """The most of it, above what an idle worker takes."""
        return max(self.running, SESSION_BYTES + self.loading)


def memory_of(
    split: Split,
    assignment: Sequence[Indices],
    targets: Sequence[CpuTarget],
    outcome: Outcome,
) -> tuple[Memory, ...]:
    """Return the memory of each device."""
    return tuple(
        dataclasses.replace(least, buffers=round(KEPT * held))
        for least, held in zip(
            least_memory(split, assignment, targets), outcome.buffer_bytes, strict=True
        )
    )


def least_memory(
    split: Split, assignment: Sequence[Indices], targets: Sequence[CpuTarget]
) -> tuple[Memory, ...]:
    """Return the memory of each device without any sample."""
    known: dict[tuple[str, int, tuple[str, ...]], Memory] = {}
    found = []
    for target, groups in zip(targets, assignment, strict=True):
        kernels = split.kernels(target, groups)
        key = (target.name, len(groups), tuple(kernels))
        if key not in known:
            known[key] = _without_samples(split.plan, kernels, len(groups))
        found.append(known[key])
    return tuple(found)


def _without_samples(
    plan: Plan, kernels: Mapping[str, Sequence[LayerCost]], group_count: int
) -> Memory:
    layers = {cost.name: cost for costs in kernels.values() for cost in costs}
    workspace = max((cost.workspace_bytes for cost in layers.values()), default=0)
    return Memory(
        weights=sum(cost.weight_bytes for cost in layers.values()),
        workspace=round(KEPT * workspace),
        buffers=0,
        loading=loading_bytes(plan, kernels, group_count),
    )


def loading_bytes(plan: Plan, kernels: Mapping[str, Sequence[LayerCost]], group_count: int) -> int:
    """Return what packing takes at most, stage after stage, the one with the most weights first."""
    stages = []
    for stage in plan.stages:
        if stage.function in kernels:
            weights = [plan.weight(name) for name in stage.weights]
            given = sum(
                math.prod(w.local_shape(group_count)) * np.dtype(w.dtype).itemsize for w in weights
            )
            stages.append((given, sum(cost.weight_bytes for cost in kernels[stage.function])))
    done = most = 0
    for given, packed in sorted(stages, reverse=True):
        done += packed
        most = max(most, done + given)
    return most
