# SPDX-License-Identifier: Apache-2.0
"""What the schedule rules share: finding blocks, and computing an epilogue from registers."""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import s_tir, tirx
from tvm.s_tir.schedule import LoopRV, SBlockRV, ScheduleError

from decnn_tvm.schedules.vectors import core_count, vector_lanes

# Longer inner loops are left to LLVM's own vectoriser.
MAX_VECTOR = 64


def split_blocks(
    sch: s_tir.Schedule, name: str
) -> tuple[list[SBlockRV], SBlockRV, list[SBlockRV]] | None:
    """Return what the block called `name` needs, itself, and its epilogue; None if there is none.

    All that it does not need is the epilogue's, wherever it stands, such as the cast of a residual
    that came as int8.
    """
    blocks = sch.get_child_blocks(sch.get_sblock("root"))
    names = [sch.get(block).name_hint for block in blocks]
    if name not in names:
        return None
    index = names.index(name)
    needed, others = [], []
    read = _sources(sch.get(blocks[index]).reads)
    for block in reversed(blocks[:index]):
        statement = sch.get(block)
        if read.isdisjoint(_sources(statement.writes)):
            others.append(block)
        else:
            needed.append(block)
            read |= _sources(statement.reads)
    return needed[::-1], blocks[index], [*others[::-1], *blocks[index + 1 :]]


def _sources(regions: Sequence[tirx.BufferRegion]) -> set[tirx.Buffer]:
    return {region.source for region in regions}


def inline_all(sch: s_tir.Schedule, blocks: list[SBlockRV]) -> list[SBlockRV]:
    """Inline every block that is one value per element; return the others and the last."""
    kept = []
    for block in blocks[:-1]:
        try:
            sch.compute_inline(block)
        except ScheduleError:
            kept.append(block)
    return [*kept, *blocks[-1:]]


def append_epilogue(
    sch: s_tir.Schedule,
    block: SBlockRV,
    after: list[SBlockRV],
    loop: LoopRV,
    target: tvm.target.Target,
    *,
    unrolled: bool = True,
) -> None:
    """Compute what follows `block` inside `loop`, from the registers in which `block` leaves it.

    Where the last of them doesn't follow the loops of `block`, only the tile's result is written
    there, and the rest is computed afterwards. What is inside `loop` is unrolled, unless it is
    more than registers hold.
    """
    rest = inline_all(sch, after)
    last = rest[-1]
    if len(rest) == 1 and _same_loops(sch, block, last) and _reads_alone(sch, block, last):
        sch.reverse_compute_at(last, loop, preserve_unit_loops=True)
        sch.set_scope(block, 0, "local")
    else:
        copy = sch.cache_write(block, 0, "local")
        sch.reverse_compute_at(copy, loop, preserve_unit_loops=True)
        for other in rest:
            vectorize_last(sch, other)
        last = copy
    depth = _depth(sch, block, loop)
    *tile, lane = sch.get_loops(last)[depth:]
    unroll_tile(sch, tile if unrolled else [], lane, target)


def unroll_tile(
    sch: s_tir.Schedule, tile: Sequence[LoopRV], lane: LoopRV, target: tvm.target.Target
) -> None:
    """Unroll the loops of a register tile and vectorise its lanes, a register at a time.

    Vectors wider than a register are split by LLVM too, but so late that it spills most of them.
    """
    vector = vector_lanes(target)
    lanes = int(sch.get(lane).extent)
    if lanes > vector and lanes % vector == 0:
        part, lane = sch.split(lane, [None, vector])
        tile = [*tile, part]
    for loop in tile:
        sch.unroll(loop)
    sch.vectorize(lane)


def spread_over_cores(
    sch: s_tir.Schedule, loops: Sequence[LoopRV], target: tvm.target.Target
) -> None:
    """Run nested spatial loops in parallel where `target` has several cores."""
    if core_count(target) > 1:
        sch.parallel(sch.fuse(*loops) if len(loops) > 1 else loops[0])


def vectorize_last(sch: s_tir.Schedule, block: SBlockRV) -> None:
    """Vectorise the innermost loop of `block` if it is short, spatial and alone in its place."""
    loops = sch.get_loops(block)
    if not loops:
        return
    extent = sch.get(loops[-1]).extent
    if isinstance(extent, tirx.IntImm) and 1 < int(extent) <= MAX_VECTOR:
        try:
            sch.vectorize(loops[-1])
        except ScheduleError:
            return


def _reads_alone(sch: s_tir.Schedule, block: SBlockRV, last: SBlockRV) -> bool:
    """Inline what else `last` reads that this kernel computes, as the sum of two other operands."""
    left = []
    for producer in sch.get_producers(last):
        if not sch.get(producer).same_as(sch.get(block)):
            left += inline_all(sch, [producer, last])[:-1]
    return not left


def _same_loops(sch: s_tir.Schedule, block: SBlockRV, last: SBlockRV) -> bool:
    """Tell whether `last` writes element (n, o, y, x, lane) from that element of `block`."""
    source = sch.get(block).writes[0].source
    reads = [region for region in sch.get(last).reads if region.source.same_as(source)]
    if len(reads) != 1 or len(sch.get_loops(last)) != len(source.shape):
        return False
    variables = [axis.var for axis in sch.get(last).iter_vars]
    return all(
        _is_index(part.min, var, int(extent))
        for part, var, extent in zip(reads[0].region, variables, source.shape, strict=True)
    )


def _is_index(value: tirx.Expr, var: tirx.Var, extent: int) -> bool:
    return value.same_as(var) or (extent == 1 and isinstance(value, tirx.IntImm))


def _depth(sch: s_tir.Schedule, block: SBlockRV, loop: LoopRV) -> int:
    """Return the number of loops of `block` down to `loop`."""
    stop = sch.get(loop)
    return next(i for i, each in enumerate(sch.get_loops(block), 1) if sch.get(each).same_as(stop))
