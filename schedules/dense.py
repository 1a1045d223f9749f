# SPDX-License-Identifier: Apache-2.0
"""Dense layer: the computation and its schedule.

::

    C[b, o, lane] = sum over f of x[b, f] W[o, f, lane]

The weights (F, O) are packed as (O / lanes, F, lanes), zeros behind the last output, so that they
are read once, front to back. A tile of rows times one block of outputs stays in registers.
"""

from __future__ import annotations

import tvm
from tvm import s_tir, te, tirx
from tvm.s_tir.dlight.base import ScheduleRule

from decnn_tvm.schedules.direct_convolution import TILE
from decnn_tvm.schedules.epilogue import (
    inline_all,
    split_blocks,
    spread_over_cores,
    unroll_tile,
    vectorize_last,
)

BLOCK = "dense"


def dense(data: te.Tensor, weight: te.Tensor, *, outputs: int, rows: int) -> te.Tensor:
    """Return `data` (B, F) times the packed `weight` (O / lanes, F, lanes), as (B, outputs).

    Parameters
    ----------
    data, weight
        Operands.
    outputs
        Columns of the result.
    rows
        Rows of the register tile; a divisor of B.
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
    return te.compute(
        (batch, outputs), lambda b, o: result[o // lanes, b, o % lanes], name="dense_result"
    )


class Dense(ScheduleRule):  # type: ignore[misc]
    """Schedule functions around `dense`."""

    def apply(
        self, func: tirx.PrimFunc, target: tvm.target.Target, tunable: bool
    ) -> s_tir.Schedule | None:
        """Return the schedule, or None for other functions."""
        sch = s_tir.Schedule(func)
        parts = split_blocks(sch, BLOCK)
        if parts is None:
            return None
        before, block, after = parts
        for other in [*before, *inline_all(sch, after)]:
            vectorize_last(sch, other)
        rows = int(sch.get(block).annotations[TILE][0])
        o, b, lane, feature = sch.get_loops(block)
        b, b_in = sch.split(b, [None, rows])
        sch.reorder(b, feature, b_in, lane)
        copy = sch.cache_write(block, 0, "local")
        sch.reverse_compute_at(copy, b, preserve_unit_loops=True)
        unroll_tile(sch, *_tile(sch.get_loops(copy)))
        unroll_tile(sch, [b_in], lane)
        spread_over_cores(sch, [o], target)
        start = sch.decompose_reduction(block, feature)
        unroll_tile(sch, *_tile(sch.get_loops(start)))
        return sch


def _tile(loops: list[s_tir.schedule.LoopRV]) -> tuple[list[s_tir.schedule.LoopRV], ...]:
    return loops[-2:-1], loops[-1]
