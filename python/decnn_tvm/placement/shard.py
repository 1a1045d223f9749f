# SPDX-License-Identifier: Apache-2.0
"""How a weight is sliced for a channel group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from decnn_tvm.placement.ownership import Groups
from decnn_tvm.plan import PAD, Indices
from decnn_tvm.plan_placements import from_ranges, to_ranges

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightShard:
    """The slice of a weight that each channel group holds.

    Attributes
    ----------
    axes : mapping of int to Groups
        For each sliced axis the indices per group; padding becomes zeros.
    inputs : tuple of tuple of Indices, optional
        For a group convolution: per channel group and convolution group it holds, the indices of
        axis 1 in the order in which its input channels lie.
    combine : {"replicate", "concat", "sum"}
        How a device with several groups joins their slices.
    axis : int
        The axis of "concat".
    group : int, optional
        The only group whose owner has a weight of "replicate"; every device has it by default.
    """

    axes: Mapping[int, Groups] = field(default_factory=dict)
    inputs: tuple[tuple[Indices, ...], ...] | None = None
    combine: Literal["replicate", "concat", "sum"] = "replicate"
    axis: int = 0
    group: int | None = None


REPLICATED = WeightShard()


def shard_to_json(shard: WeightShard) -> dict[str, Any]:
    """Return a shard as JSON data."""
    inputs = shard.inputs and [[to_ranges(run) for run in runs] for runs in shard.inputs]
    axes = {str(a): [to_ranges(g) for g in groups] for a, groups in shard.axes.items()}
    rest = {"combine": shard.combine, "axis": shard.axis, "group": shard.group}
    return {"axes": axes, "inputs": inputs, **rest}


def shard_from_json(data: dict[str, Any]) -> WeightShard:
    """Read what `shard_to_json` wrote."""
    inputs = data["inputs"] and tuple(
        tuple(from_ranges(run) for run in runs) for runs in data["inputs"]
    )
    axes = {int(a): tuple(from_ranges(g) for g in groups) for a, groups in data["axes"].items()}
    return WeightShard(
        axes=axes,
        inputs=inputs,
        combine=data["combine"],
        axis=data["axis"],
        group=data["group"],
    )


def slice_weight(value: Array, shard: WeightShard, group: int) -> Array:
    """Return the slice of `value` that `group` holds."""
    if shard.combine == "sum":
        return value if group == 0 else np.zeros_like(value)
    for axis, groups in shard.axes.items():
        value = take(value, groups[group], axis)
    if shard.inputs is not None:
        runs = shard.inputs[group]
        parts = np.split(value, len(runs), axis=0)
        value = np.concatenate([take(p, r, 1) for p, r in zip(parts, runs, strict=True)])
    return np.ascontiguousarray(value)


def take(value: Array, indices: Indices, axis: int) -> Array:
    """Return ``value.take(indices, axis)`` with zeros at `PAD`."""
    listed = np.asarray(indices)
    taken: Array = value.take(np.maximum(listed, 0), axis)
    if PAD in indices:
        shape = [1] * value.ndim
        shape[axis] = -1
        taken = np.where((listed != PAD).reshape(shape), taken, value.dtype.type(0))
    return taken
