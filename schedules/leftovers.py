# SPDX-License-Identifier: Apache-2.0
"""The generic rule: elementwise, pooling, layout and cast loops, and whatever else is left.

What is one value per element is inlined into its reader; inner loops over a channel block are
vectorised, reductions run inside them. Everything else is left to LLVM.
"""

from __future__ import annotations

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.dlight.base import ScheduleRule
from tvm.s_tir.schedule import SBlockRV

from decnn_tvm.schedules.epilogue import MAX_VECTOR, inline_all, vectorize_last


class Leftovers(ScheduleRule):  # type: ignore[misc]
    """Schedule functions that no other rule takes."""

    def apply(
        self, func: tirx.PrimFunc, target: tvm.target.Target, tunable: bool
    ) -> s_tir.Schedule | None:
        """Return the schedule, or None for functions whose loops can't be read."""
        sch = s_tir.Schedule(func)
        for block in inline_all(sch, sch.get_child_blocks(sch.get_sblock("root"))):
            if _is_reduction(sch, block):
                _vectorize_reduction(sch, block)
            else:
                vectorize_last(sch, block)
        return sch


def _is_reduction(sch: s_tir.Schedule, block: SBlockRV) -> bool:
    return any(axis.iter_type == tirx.IterVar.CommReduce for axis in sch.get(block).iter_vars)


def _vectorize_reduction(sch: s_tir.Schedule, block: SBlockRV) -> None:
    """Move the last spatial loop inside the reduction and vectorise it, if it is short."""
    loops = sch.get_loops(block)
    kinds = [axis.iter_type for axis in sch.get(block).iter_vars]
    if len(loops) != len(kinds) or sch.get(block).init is None:
        return
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == 0]
    reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == 2]
    extent = sch.get(spatial[-1]).extent if spatial else None
    if len(spatial) + len(reduced) != len(loops) or not isinstance(extent, tirx.IntImm):
        return
    if not 1 < int(extent) <= MAX_VECTOR:
        return
    sch.reorder(*spatial[:-1], *reduced, spatial[-1])
    sch.vectorize(spatial[-1])
    start = sch.decompose_reduction(block, reduced[0])
    sch.vectorize(sch.get_loops(start)[-1])
