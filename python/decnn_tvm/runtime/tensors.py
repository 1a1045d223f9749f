# SPDX-License-Identifier: Apache-2.0
"""Tensors of a rank, and the parts of them that messages carry.

A tensor is seen as ``(outer, length, inner)`` around the moved axis. For a blocked tensor
``(N, C/b, H, W, b)`` that moves along channels, `length` counts blocks and `inner` is ``H*W*b``:
transfers start and end on a block. Along rows it is ``(N*C/b, H, W*b)``. With `outer` 1 (batch 1,
axis 1) a run is contiguous and goes out as a view; otherwise it is copied once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from decnn_tvm.errors import PackageError
from decnn_tvm.plan import Strips, Value
from decnn_tvm.runtime.wire import Buffer, WireError
from decnn_tvm.transfers import Run, Transfer

Array = npt.NDArray[Any]

ALIGNMENT = 64
"""Bytes; TVM takes no tensor from outside that is aligned to less."""
VIEWS = 16
"""With more runs than this a message is gathered into one frame: frames cost more than a copy."""


def aligned_empty(shape: Sequence[int], dtype: str) -> Array:
    """Return an uninitialised C-contiguous array on a 64-byte boundary."""
    count = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(count + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + count].view(dtype).reshape(tuple(shape))


def aligned_zeros(shape: Sequence[int], dtype: str) -> Array:
    """Return zeros on a 64-byte boundary."""
    array = aligned_empty(shape, dtype)
    array.fill(0)
    return array


def padding_of(value: Value, shape: Sequence[int]) -> Array:
    """Return an array of `shape` full of what the padding of `value` holds."""
    array = aligned_empty(shape, value.dtype)
    placement = value.placement
    if isinstance(placement, Strips) and placement.padding == "lowest":
        is_float = array.dtype.kind == "f"
        array.fill(-np.inf if is_float else np.iinfo(array.dtype).min)
    else:
        array.fill(0)
    return array


def aligned(array: Array) -> Array:
    """Return `array` itself where TVM can take it, else an aligned copy."""
    if array.ctypes.data % ALIGNMENT == 0 and array.flags.c_contiguous and array.flags.writeable:
        return array
    copy = aligned_empty(array.shape, str(array.dtype))
    copy[...] = array
    return copy


class Moved:
    """How one value looks along the axis of one movement.

    Parameters
    ----------
    value : Value
        The value.
    group_count : int
        Groups of the rank that holds it (any number at the coordinator).
    axis : int
        The moved axis, of the logical shape.

    Raises
    ------
    PackageError
        The value is blocked, and moves neither along its channels nor along its rows.
    """

    def __init__(self, value: Value, group_count: int, axis: int) -> None:
        if value.block != 1 and axis not in (1, 2):
            raise PackageError(
                f"plan: value {value.name!r} is blocked along axis 1 and moved along axis {axis}. "
                "Compile the package again."
            )
        self.value = value
        self.block = value.block if axis == 1 else 1
        self.shape = value.physical_shape(group_count)
        self.view_shape = (
            math.prod(self.shape[:axis]),
            self.shape[axis] if self.shape else 1,
            math.prod(self.shape[axis + 1 :]),
        )
        self.itemsize = np.dtype(value.dtype).itemsize

    def view(self, array: Array) -> Array:
        """Return `array` as ``(outer, length, inner)``, without a copy."""
        return array.reshape(self.view_shape)

    def span(self, start: int, length: int) -> slice:
        """Return the slice of a run, in blocks."""
        if start % self.block or length % self.block:
            raise PackageError(
                f"plan: a transfer of {self.value.name!r} (from {start}, {length} channels) cuts "
                f"a block of {self.block} channels. Compile the package again."
            )
        return slice(start // self.block, (start + length) // self.block)


def payload_of(source: Moved, array: Array, transfer: Transfer) -> list[Buffer]:
    """Return the payload of `transfer`: views of `array` where runs are contiguous."""
    view = source.view(array)
    parts = [view[:, source.span(run.source, run.length)] for run in transfer.runs]
    if source.view_shape[0] == 1 and len(parts) <= VIEWS:
        return [part.reshape(-1).view(np.uint8).data for part in parts]
    whole = np.concatenate([part.reshape(-1) for part in parts])
    return [whole.view(np.uint8).data]


def pieces_of(
    source: Moved, payload: Sequence[memoryview], runs: Sequence[Run]
) -> list[tuple[Run, Array]]:
    """Cut a payload into its runs, each as ``(outer, blocks, inner)`` of the sender's dtype.

    Raises
    ------
    WireError
        The payload does not have the bytes of these runs.
    """
    outer, _, inner = source.view_shape
    sizes = [outer * (run.length // source.block) * inner * source.itemsize for run in runs]
    got = [part.nbytes for part in payload]
    if sum(got) != sum(sizes):
        raise WireError(f"{source.value.name}: payload of {sum(got)} bytes; expected {sum(sizes)}")
    if got != sizes:
        whole = memoryview(payload[0] if len(payload) == 1 else b"".join(payload))
        ends = np.cumsum(sizes).tolist()
        payload = [whole[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    return [
        (run, np.frombuffer(part, source.value.dtype).reshape(outer, -1, inner))
        for run, part in zip(runs, payload, strict=True)
    ]
