# SPDX-License-Identifier: Apache-2.0
"""The generic rule: elementwise, pooling, layout and cast loops, and whatever else is left.

What is one value per element is inlined into its reader; inner loops over a channel block or a part
of a row are vectorised, with reductions around them. Everything else is left to LLVM.
"""

from __future__ import annotations

from contextlib import suppress
from math import prod

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.dlight.base import ScheduleRule
from tvm.s_tir.schedule import SBlockRV, ScheduleError

from decnn_tvm.schedules.epilogue import MAX_VECTOR, inline_all, spread_over_cores, vectorize_last
from decnn_tvm.schedules.template import divisors
from decnn_tvm.schedules.vectors import MIN_LANES

# Starting threads takes some microseconds, in which a core writes about so many elements.
LEAST_SIZE = 1 << 14


class Leftovers(ScheduleRule):  # type: ignore[misc]
    """Schedule functions that no other rule takes."""

    def apply(
        self, func: tirx.PrimFunc, target: tvm.target.Target, tunable: bool
    ) -> s_tir.Schedule | None:
        """Return the schedule, or None for functions whose loops can't be read."""
        sch = s_tir.Schedule(func)
        for block in inline_all(sch, sch.get_child_blocks(sch.get_sblock("root"))):
            if _is_reduction(sch, block):
                _schedule_reduction(sch, block, target)
            else:
                vectorize_last(sch, block)
                _spread(sch, block, target)
        return sch


def _spread(sch: s_tir.Schedule, block: SBlockRV, target: tvm.target.Target) -> None:
    """Run the outer spatial loops of a large tensor in parallel, all but the last one."""
    axes = list(sch.get(block).iter_vars)
    spatial = [axis for axis in axes if axis.iter_type == tirx.IterVar.DataPar]
    loops = sch.get_loops(block)
    outer = loops[: len(spatial) - 1]
    extents = [axis.dom.extent for axis in spatial]
    if len(loops) != len(axes) or not outer or axes[: len(spatial)] != spatial:
        return
    if all(isinstance(n, tirx.IntImm) for n in extents) and prod(map(int, extents)) >= LEAST_SIZE:
        with suppress(ScheduleError):  # whatever else keeps loops from running in parallel
            spread_over_cores(sch, outer, target)


def _is_reduction(sch: s_tir.Schedule, block: SBlockRV) -> bool:
    return any(axis.iter_type == tirx.IterVar.CommReduce for axis in sch.get(block).iter_vars)


def _schedule_reduction(sch: s_tir.Schedule, block: SBlockRV, target: tvm.target.Target) -> None:
    """Move the last spatial loop, or a vector's worth of it, inside the reduction."""
    loops = sch.get_loops(block)
    kinds = [axis.iter_type for axis in sch.get(block).iter_vars]
    if len(loops) != len(kinds) or sch.get(block).init is None:
        return
    spatial = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == 0]
    reduced = [loop for loop, kind in zip(loops, kinds, strict=True) if kind == 2]
    if not spatial or len(spatial) + len(reduced) != len(loops):
        return
    last = spatial[-1]
    extent = sch.get(last).extent
    if not isinstance(extent, tirx.IntImm):
        return
    vector = max(size for size in divisors(int(extent)) if size <= MAX_VECTOR)
    if MIN_LANES <= vector < int(extent):
        outer, last = sch.split(last, [None, vector])
        spatial = [*spatial[:-1], outer, last]
    sch.reorder(*spatial[:-1], *reduced, last)
    # Rows of a prime length are left to LLVM's own vectoriser.
    is_vector = 1 < int(sch.get(last).extent) <= MAX_VECTOR
    if is_vector:
        sch.vectorize(last)
    _spread(sch, block, target)
    start = sch.decompose_reduction(block, reduced[0])
    if is_vector:
        sch.vectorize(sch.get_loops(start)[-1])
