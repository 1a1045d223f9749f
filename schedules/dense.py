# SPDX-License-Identifier: Apache-2.0
"""Dense layer: the computation and its schedule.

::

    C[b, o, lane] = sum over f of x[b, f] W[o, f, lane]

The weights (F, O) are packed as (O / lanes, F, lanes), zeros behind the last output, so that they
are read once, front to back. A tile of rows times one block of outputs stays in registers.

Parameters of the template: the rows of the tile, and how far the loop over the features is
unrolled.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import tvm
from tvm import s_tir, te, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV

from decnn_tvm.schedules.direct_convolution import TILE
from decnn_tvm.schedules.epilogue import (
    inline_all,
    spread_over_cores,
    unroll_tile,
    vectorize_last,
)
from decnn_tvm.schedules.register_tiles import Tile, TileProblem, cycles
from decnn_tvm.schedules.template import STEP, Parts, Template, divisors, extents, ranked
from decnn_tvm.schedules.vectors import vector_lanes, vector_registers

BLOCK = "dense"
MAX_UNROLL = 8


def dense(
    data: te.Tensor,
    weight: te.Tensor,
    *,
    outputs: int,
    rows: int,
    leading: tuple[int, ...] | None = None,
) -> te.Tensor:
    """Return `data` (B, F) times the packed `weight` (O / lanes, F, lanes), as (B, outputs).

    Parameters
    ----------
    data, weight
        Operands.
    outputs
        Columns of the result.
    rows
        Rows of the register tile; a divisor of B.
    leading
        Extents whose product is B, for a result of the shape (*leading, outputs).
    """
    batch, features = (int(extent) for extent in data.shape)
    blocks, _, lanes = (int(extent) for extent in weight.shape)
    feature = te.reduce_axis((0, features), "f")
    result = te.compute(
        (blocks, batch, lanes),
        lambda o, b, lane: te.sum(data[b, feature] * weight[o, feature, lane], axis=[feature]),
        name=BLOCK,
        attrs={TILE: [rows]},
    )
    if leading is None:
        return te.compute(
            (batch, outputs), lambda b, o: result[o // lanes, b, o % lanes], name="dense_result"
        )

    def element(*at: tirx.Var) -> tirx.Expr:
        row = sum(i * prod(leading[axis + 1 :]) for axis, i in enumerate(at[:-1]))
        return result[at[-1] // lanes, row, at[-1] % lanes]

    return te.compute((*leading, outputs), element, name="dense_result")


def dense_problem(
    batch: int, features: int, vectors: int, target: tvm.target.Target
) -> TileProblem:
    """Return the choice of rows for one block of outputs, of `vectors` vectors."""
    return TileProblem(
        height=1,
        width=batch,
        blocks=1,
        vectors=vectors,
        steps=features,
        registers=vector_registers(target),
        vector_bytes=4 * vector_lanes(target),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseChoice:
    """Parameters of the schedule; the module docstring says what they are."""

    rows: int
    unroll: int = 1


class Dense(Template[DenseChoice]):
    """Schedule functions around `dense`."""

    block = BLOCK

    def default(
        self, sch: s_tir.Schedule, block: SBlockRV, target: tvm.target.Target
    ) -> DenseChoice:
        """Return the analytic rows, not unrolled."""
        return DenseChoice(rows=int(sch.get(block).annotations[TILE][0]))

    def choices(
        self, sch: s_tir.Schedule, parts: Parts, target: tvm.target.Target
    ) -> list[DenseChoice]:
        """Return rows that fit the registers, and unrolled lengths."""
        block = parts[1]
        _, batch, lanes, features = extents(sch, block)
        vectors = -(-lanes // vector_lanes(target))
        registers = vector_registers(target)
        problem = dense_problem(batch, features, vectors, target)
        estimates = []
        for rows in divisors(batch):
            if (rows + 1) * vectors <= max(registers, 2 * vectors):
                work = cycles(problem, Tile(rows=1, columns=rows, blocks=1))
                for unroll in (size for size in divisors(features) if size <= MAX_UNROLL):
                    choice = DenseChoice(rows=rows, unroll=unroll)
                    estimates.append((work * (1 + STEP * (unroll > 1)), choice))
        return ranked(self.default(sch, block, target), estimates)

    def schedule(
        self, sch: s_tir.Schedule, parts: Parts, target: tvm.target.Target, choice: DenseChoice
    ) -> None:
        """Tile for the registers."""
        before, block, after = parts
        for other in [*before, *inline_all(sch, after)]:
            vectorize_last(sch, other)
        o, b, lane, feature = sch.get_loops(block)
        b, b_in = sch.split(b, [None, choice.rows])
        reduction = [feature]
        if choice.unroll > 1:
            reduction = sch.split(feature, [None, choice.unroll])
            sch.unroll(reduction[-1])
        sch.reorder(b, *reduction, b_in, lane)
        copy = sch.cache_write(block, 0, "local")
        sch.reverse_compute_at(copy, b, preserve_unit_loops=True)
        unroll_tile(sch, *_tile(sch.get_loops(copy)), target)
        unroll_tile(sch, [b_in], lane, target)
        spread_over_cores(sch, [o], target)
        start = sch.decompose_reduction(block, reduction[0])
        unroll_tile(sch, *_tile(sch.get_loops(start)), target)


def _tile(loops: list[LoopRV]) -> tuple[list[LoopRV], LoopRV]:
    return loops[-2:-1], loops[-1]
