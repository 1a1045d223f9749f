# SPDX-License-Identifier: Apache-2.0
"""Lower ``relax.matmul`` to `dense`, with packed weights, where its second operand is a matrix.

The rows of a first operand with more axes are those of one matrix. What multiplies stacks of
matrices, as attention does two activations, has no weights to pack: it becomes `PRODUCT`, whose
loops the generic rule schedules.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod

import tvm
from tvm import relax, te, tirx

from decnn_tvm.schedules.convolution_lowering import TAKES_EPILOGUE, pad_axis
from decnn_tvm.schedules.dense import dense, dense_problem
from decnn_tvm.schedules.register_tiles import CHAINS, L1_BYTES, Tile, cycles
from decnn_tvm.schedules.template import divisors
from decnn_tvm.schedules.vectors import vector_lanes, vector_registers

PRODUCT = "product"
"""What kernels of two activations are called; a dense layer that goes unscheduled is "matmul"."""
# Vectors per block: powers of two, since LLVM spills the sums of other widths to memory.
_WIDTHS = (CHAINS, CHAINS // 2, CHAINS // 4, 1)
# Vectors with padding, by those without: what eight sums under way are worth.
MOST_PADDED = 1.125


def lower_matmul(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Return the lowering of the matrix product `call`."""
    data, weight = call.args
    if 1 in (data.ty.ndim, weight.ty.ndim):
        return _of_vectors(builder, call)
    if weight.ty.ndim != 2 or data.ty.dtype != "float32":
        return builder.call_te(
            partial(product, dtype=str(call.ty.dtype)), data, weight, primfunc_name_hint=PRODUCT
        )
    target = tvm.target.Target.current(allow_none=False)
    *leading, features = (int(extent) for extent in data.ty.shape)
    batch, outputs = prod(leading), int(weight.ty.shape[1])
    if len(leading) > 1:
        data = builder.emit(relax.op.reshape(data, (batch, features)))
    lanes = vector_lanes(target)
    vectors, rows = dense_tile(batch, features, outputs, target)
    blocks = -(-outputs // (vectors * lanes))
    padded = pad_axis(builder, weight, 1, blocks * vectors * lanes)
    parts = builder.emit(relax.op.reshape(padded, (features, blocks, vectors * lanes)))
    shape = tuple(leading) if len(leading) > 1 else None
    return builder.call_te(
        partial(dense, outputs=outputs, rows=rows, leading=shape),
        data,
        builder.emit(relax.op.permute_dims(parts, [1, 0, 2])),
        primfunc_name_hint="dense",
        primfunc_attrs={"op_pattern": TAKES_EPILOGUE},
    )


def product(data: te.Tensor, weight: te.Tensor, *, dtype: str) -> te.Tensor:
    """Return the matrix products of two stacks of matrices, whose other axes are broadcast."""
    *first, rows, features = data.shape
    *second, _, columns = weight.shape
    rank = max(len(first), len(second))
    extents = [
        b if int(a) == 1 else a
        for a, b in zip(_extended(first, rank), _extended(second, rank), strict=True)
    ]
    feature = te.reduce_axis((0, features), "f")

    def element(*at: tirx.Var) -> tirx.Expr:
        *stack, row, column = at
        left = data(*_own(first, stack), row, feature).astype(dtype)
        right = weight(*_own(second, stack), feature, column).astype(dtype)
        return te.sum(left * right, axis=[feature])

    return te.compute((*extents, rows, columns), element, name=PRODUCT)


def _extended(extents: list[tirx.Expr], rank: int) -> list[tirx.Expr]:
    return [1] * (rank - len(extents)) + extents


def _own(extents: list[tirx.Expr], at: list[tirx.Var]) -> list[tirx.Expr]:
    """Return the place in a stack of matrices of `extents` that is broadcast to `at`."""
    last = at[len(at) - len(extents) :]
    return [0 if int(extent) == 1 else i for extent, i in zip(extents, last, strict=True)]


def _of_vectors(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    """Return a product with vectors as that of matrices with one row or column."""
    data, weight = call.args
    if data.ty.ndim == 1:
        data = builder.emit(relax.op.expand_dims(data, 0))
    if weight.ty.ndim == 1:
        weight = builder.emit(relax.op.expand_dims(weight, 1))
    return relax.op.reshape(builder.emit(relax.op.matmul(data, weight)), call.ty.shape)


def dense_tile(
    batch: int, features: int, outputs: int, target: tvm.target.Target
) -> tuple[int, int]:
    """Return the vectors per block of outputs and the rows of a register tile.

    One row takes as many sums under way as pays, and little padding; for more rows the cycles
    decide, since vectors and rows share the registers.
    """
    needed = -(-outputs // vector_lanes(target))
    widths = [count for count in _WIDTHS if -(-needed // count) * count <= MOST_PADDED * needed]
    if batch == 1:
        return widths[0], 1
    # An input that outgrows the first-level cache is read anew for each block of outputs.
    size = 4 * batch * features
    reread = size if size > L1_BYTES else 0

    def work(tile: tuple[int, int]) -> float:
        vectors, rows = tile
        problem = dense_problem(batch, features, vectors, target)
        problem = replace(problem, input_bytes=reread)
        blocks = -(-needed // vectors)
        return blocks * cycles(problem, Tile(rows=1, columns=rows, blocks=1))

    return min(
        (
            (vectors, rows)
            for vectors in widths
            for rows in divisors(batch)
            if rows == 1 or (rows + 1) * vectors <= vector_registers(target)
        ),
        key=work,
    )
