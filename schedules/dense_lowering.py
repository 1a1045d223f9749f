# SPDX-License-Identifier: Apache-2.0
"""Lower ``relax.matmul`` of two matrices to `dense`, with packed weights."""

from __future__ import annotations

from functools import partial

import tvm
from tvm import relax

from decnn_tvm.schedules.convolution_lowering import TAKES_EPILOGUE, pad_axis
from decnn_tvm.schedules.dense import dense
from decnn_tvm.schedules.register_tiles import CHAINS
from decnn_tvm.schedules.vectors import vector_lanes, vector_registers

# Vectors with padding, by those without: what eight sums under way are worth.
MOST_PADDED = 1.125


def lower_matmul(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Return the lowering of the matrix product `call`."""
    data, weight = call.args
    if data.ty.ndim != 2 or weight.ty.ndim != 2 or data.ty.dtype != "float32":
        return call.op.get_attr("FLegalize")(builder, call)
    target = tvm.target.Target.current(allow_none=False)
    batch = int(data.ty.shape[0])
    features, outputs = (int(extent) for extent in weight.ty.shape)
    lanes = vector_lanes(target)
    vectors = dense_vectors(outputs, lanes)
    rows = dense_rows(batch, vectors, target)
    blocks = -(-outputs // (vectors * lanes))
    padded = pad_axis(builder, weight, 1, blocks * vectors * lanes)
    parts = builder.emit(relax.op.reshape(padded, (features, blocks, vectors * lanes)))
    return builder.call_te(
        partial(dense, outputs=outputs, rows=rows),
        data,
        builder.emit(relax.op.permute_dims(parts, [1, 0, 2])),
        primfunc_name_hint="dense",
        primfunc_attrs={"op_pattern": TAKES_EPILOGUE},
    )


def dense_rows(batch: int, vectors: int, target: tvm.target.Target) -> int:
    """Return the rows of a register tile of blocks of `vectors` vectors."""
    room = max(1, vector_registers(target) // vectors - 1)
    return max(size for size in range(1, room + 1) if batch % size == 0)


def dense_vectors(outputs: int, lanes: int) -> int:
    """Return the vectors per block: as many sums under way as pays, and little padding.

    A power of two, since LLVM spills the sums of other widths to memory.
    """
    needed = -(-outputs // lanes)
    return next(
        count
        for count in (CHAINS, CHAINS // 2, CHAINS // 4, 1)
        if -(-needed // count) * count <= MOST_PADDED * needed
    )
