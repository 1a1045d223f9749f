# SPDX-License-Identifier: Apache-2.0
"""Which channel group each channel of each tensor belongs to, in a network to be decoupled.

A convolution gives its output channels to the groups in contiguous blocks. Elementwise layers,
pooling and depthwise convolutions keep the groups of their input; a concatenation concatenates
them, so that group g of the result is the union of each input's group g. After a channel shuffle,
and wherever nothing better is known, the blocks are contiguous again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from decnn_tvm.passes.dataflow_graph import (
    DataflowGraph,
    convolution,
    is_depthwise,
    op_name,
    shape_of,
)

Owners = npt.NDArray[np.int64]
_MOVES_CHANNELS = frozenset({"relax.reshape", "relax.permute_dims", "relax.take"})


def contiguous(channels: int, groups: int) -> Owners:
    """Return the owner of each channel when the groups hold contiguous blocks."""
    return np.arange(channels, dtype="int64") * groups // max(channels, 1)


def channel_owners(graph: DataflowGraph, groups: int) -> dict[relax.Var, Owners]:
    """Return the owner of every channel (axis 1) of every data tensor with four axes."""
    owners: dict[relax.Var, Owners] = {}
    for var in graph.data:
        value = graph.values.get(var)
        kept = _kept(graph, var, value, owners)
        shape = shape_of(var)
        if kept is not None:
            owners[var] = kept
        elif len(shape) == 4:
            owners[var] = contiguous(shape[1], groups)
    return owners


def _kept(
    graph: DataflowGraph,
    var: relax.Var,
    value: Any,
    owners: dict[relax.Var, Owners],
) -> Owners | None:
    known = [owners[source] for source in graph.data[var] if source in owners]
    if op_name(value) == "relax.concat" and int(value.attrs.axis) == 1:
        parts = value.args[0]
        fields = list(parts.fields) if isinstance(parts, relax.Tuple) else []
        complete = len(fields) > 0 and all(field in owners for field in fields)
        return np.concatenate([owners[field] for field in fields]) if complete else None
    call = convolution(value)
    if not known or (call is not None and not is_depthwise(call)):
        return None
    if op_name(value) in _MOVES_CHANNELS:
        return None
    shape = shape_of(var)
    fits = [owner for owner in known if not shape or (len(shape) == 4 and len(owner) == shape[1])]
    return fits[0] if fits else None


def order_by_owner(owners: Owners) -> Owners | None:
    """Return the permutation that makes groups contiguous, or None if they are already."""
    order = np.argsort(owners, kind="stable").astype("int64")
    return None if np.array_equal(order, np.arange(len(order))) else order
