# SPDX-License-Identifier: Apache-2.0
"""The parts of a plan: tensors at stage boundaries, weights, stages and movements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from decnn_tvm.plan_placements import Placement, local_shape

WIRE_BYTES: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys(("bool", "int8", "uint8"), 1),
        **dict.fromkeys(("float16", "int16", "uint16"), 2),
        **dict.fromkeys(("float32", "int32", "uint32"), 4),
        **dict.fromkeys(("float64", "int64", "uint64"), 8),
    }
)
"""Element types that a message may hold, and their sizes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A tensor at a stage boundary.

    Attributes
    ----------
    name : str
        Unique in the plan.
    shape : tuple of int
        Global logical shape (NCHW for activations), without padding.
    dtype : str
        Element type at the boundary, which is the type on the wire.
    placement : Placement
        How it is spread.
    block : int
        Channels per block of the boundary layout: the tensor is stored as
        ``(N, C/block, H, W, block)``; 1 is plain NCHW. Every transfer of channels starts and ends
        on a block, so in bytes a run of them is contiguous in either layout (for batch 1).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    placement: Placement
    block: int = 1

    def local_shape(self, group_count: int) -> tuple[int, ...]:
        """Logical shape on a device that holds it and owns `group_count` groups."""
        return local_shape(self.shape, self.placement, group_count)

    def physical_shape(self, group_count: int) -> tuple[int, ...]:
        """Shape of the stage function's argument on such a device."""
        shape = self.local_shape(group_count)
        if self.block == 1:
            return shape
        batch, channels, height, width = shape
        return (batch, channels // self.block, height, width, self.block)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A parameter of a stage function.

    Attributes
    ----------
    name : str
        The name in the source network, unique in the plan.
    shape : tuple of int
        Shape of one group's slice (of the whole tensor where it is replicated).
    dtype : str
        Element type.
    combine : {"replicate", "concat", "sum"}
        How a device with several groups joins their slices. "sum" marks an addend of a partial
        sum: one group holds the value, the others zeros.
    axis : int
        The axis of "concat".
    group : int, optional
        The only group whose owner has a weight of "replicate"; every device has it by default.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    combine: Literal["replicate", "concat", "sum"]
    axis: int = 0
    group: int | None = None

    def local_shape(self, group_count: int) -> tuple[int, ...]:
        """Shape on a device that owns `group_count` groups."""
        if self.combine != "concat":
            return self.shape
        shape = list(self.shape)
        shape[self.axis] *= group_count
        return tuple(shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One call of compiled code: ``function(*inputs, *weights) -> outputs``, all value names.

    `group` is the group whose owner alone runs it; every device does where it is None.
    """

    function: str
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    outputs: tuple[str, ...]
    group: int | None = None

    def runs_on(self, groups: Sequence[int]) -> bool:
        """Tell whether a device with these groups runs it."""
        return bool(groups) if self.group is None else self.group in groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Movement:
    """A change of placement: `source` becomes `target`, another value with the same content.

    `kind` names the collective (input, output, all_to_all, all_gather, reduce_scatter,
    all_reduce, halo, point_to_point, local) for people; the transfers follow from the two
    placements alone. `wire` is the element type that travels, which both values have.
    """

    source: str
    target: str
    kind: str
    wire: str = "float32"

    def __str__(self) -> str:
        return f"{self.source} -> {self.target}"


def nbytes(value: Value, group_count: int) -> int:
    """Return the bytes of `value` on a device that holds it and owns `group_count` groups."""
    return math.prod(value.local_shape(group_count)) * WIRE_BYTES[value.dtype]
