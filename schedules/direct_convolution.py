# SPDX-License-Identifier: Apache-2.0
"""Direct convolution in blocked layouts: the computation and its schedule.

::

    C[n, o, y, x, lane] = sum over ic, kh, kw, i of
        A[n, g(o) I + ic, s y + d kh - p, s x + d kw - p, i] W[o, ic, kh, kw, i, lane]

Loops: n, group, channel blocks, rows, columns, then the reduction ic, kh, kw, i, then a tile of
rows, columns and channel blocks that stays in registers, with the lanes vectorised. Lanes are
rounded up to whole vectors (in the weights, by zeros), and height and width to whole tiles (in a
padded copy of the input); ``conv_result`` cuts both off again. What fusion appends (bias, residual,
activation, cast) is computed tile by tile, from registers.

Parameters of the template: the tile; the `Loops` outside it; and how far the innermost loop of the
reduction is unrolled. Where the tile's channel blocks do not divide those of a group, the passes
over them are unrolled, so that the last, smaller one has a kernel of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import tvm
from tvm import s_tir, te, tirx
from tvm.s_tir.schedule import SBlockRV

from decnn_tvm.schedules.epilogue import (
    append_epilogue,
    spread_over_cores,
    unroll_tile,
    vectorize_last,
)
from decnn_tvm.schedules.loop_order import Loops, Order, choose_loops, chunked_loops, sums_fit
from decnn_tvm.schedules.register_tiles import (
    Tile,
    TileProblem,
    can_be_chunked,
    cycles,
    dividing_tiles,
    has_few_registers,
)
from decnn_tvm.schedules.template import (
    STEP,
    Parts,
    Template,
    divisors,
    extents,
    float_bytes,
    operands,
    ranked,
)
from decnn_tvm.schedules.vectors import core_count, vector_lanes, vector_registers

TILE = "decnn.tile"
GROUPS = "decnn.groups"
BLOCK = "convolution"
# Longer unrolled reductions gain nothing and cost instruction cache.
MAX_UNROLL = 4
# Steps of the reduction at a time where nobody tuned and registers are few: LLVM unrolls all of a
# short reduction otherwise and spills. A 1x1 layer of 160x7x7 took 6 times as long on a Zen 3.
# With AVX-512 the code is the same for one and for two; on AArch64 two spill some kernels.
_UNROLL = 2


def direct_convolution(
    data: te.Tensor,
    weight: te.Tensor,
    *,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    out_block: int,
    out_channels: int,
    tile: Tile,
) -> te.Tensor:
    """Return a convolution of `data` (N, C/i, H, W, i) or (N, C, H, W).

    Parameters
    ----------
    data, weight
        Weights are (O/o, I/i, KH, KW, [i,] lanes) with lanes >= o; groups do not share blocks.
    strides, dilation
        Of height and width.
    padding
        Top, left, bottom, right.
    groups
        Channel groups.
    out_block
        Channels per block of the result (N, O/o, H, W, o), or 1 for a result (N, O, H, W).
    out_channels
        Channels of the result.
    tile
        Register tile.
    """
    n, _, height, width, *in_block = _extents(data)
    blocks, group_chunks, kh, kw, *_, lanes = _extents(weight)
    out_h = out_extent(height, padding[0] + padding[2], dilation[0] * (kh - 1), strides[0])
    out_w = out_extent(width, padding[1] + padding[3], dilation[1] * (kw - 1), strides[1])
    rows, columns = round_up(out_h, tile.rows), round_up(out_w, tile.columns)
    need_h = (rows - 1) * strides[0] + dilation[0] * (kh - 1) + 1
    need_w = (columns - 1) * strides[1] + dilation[1] * (kw - 1) + 1
    source = pad(data, padding[0], padding[1], need_h, need_w)
    per_group = blocks // groups
    ic, rkh, rkw = (
        te.reduce_axis((0, extent), name)
        for extent, name in ((group_chunks, "ic"), (kh, "kh"), (kw, "kw"))
    )
    inner = [te.reduce_axis((0, in_block[0]), "i")] if in_block else []

    def point(b: te.Var, o: te.Var, y: te.Var, x: te.Var, lane: te.Var) -> te.Expr:
        chunk = o // per_group * group_chunks + ic if groups > 1 else ic
        row, column = y * strides[0] + rkh * dilation[0], x * strides[1] + rkw * dilation[1]
        value = source(b, chunk, row, column, *inner)
        return te.sum(value * weight(o, ic, rkh, rkw, *inner, lane), axis=[ic, rkh, rkw, *inner])

    attrs = {TILE: [tile.rows, tile.columns, tile.blocks], GROUPS: groups}
    result = te.compute((n, blocks, rows, columns, lanes), point, name=BLOCK, attrs=attrs)
    if out_block > 1:
        shape = (n, blocks, out_h, out_w, out_block)
        return te.compute(shape, lambda *index: result[index], name="conv_result")
    size = out_channels // groups
    return te.compute(
        (n, out_channels, out_h, out_w),
        lambda b, c, y, x: result[
            b, c // size * per_group + c % size // lanes, y, x, c % size % lanes
        ],
        name="conv_result",
    )


def pad(data: te.Tensor, top: int, left: int, height: int, width: int, lanes: int = 0) -> te.Tensor:
    """Return `data` placed at (`top`, `left`) of zeros of `height` x `width`, or `data` if it fits.

    With `lanes`, the block (the last axis) is extended to that many lanes.
    """
    n, chunks, old_h, old_w, *rest = _extents(data)
    wider = bool(lanes) and rest[0] < lanes
    if not top and not left and height <= old_h and width <= old_w and not wider:
        return data

    def value(b: te.Var, c: te.Var, y: te.Var, x: te.Var, *lane: te.Var) -> te.Expr:
        inside = [y >= top, y < old_h + top, x >= left, x < old_w + left]
        inside += [lane[0] < rest[0]] if wider else []
        zero = tirx.const(0, data.dtype)
        return tirx.if_then_else(tirx.all(*inside), data(b, c, y - top, x - left, *lane), zero)

    shape = (n, chunks, height, width, *([lanes] if wider else rest))
    return te.compute(shape, value, name="pad")


def _extents(tensor: te.Tensor) -> list[int]:
    return [int(extent) for extent in tensor.shape]


def out_extent(size: int, padding: int, reach: int, stride: int) -> int:
    """Return the output pixels of a window of `reach` + 1 over `size` + `padding` pixels."""
    return (size + padding - reach - 1) // stride + 1


def round_up(value: int, multiple: int) -> int:
    """Return the next multiple of `multiple` from `value` on."""
    return -(-value // multiple) * multiple


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectChoice:
    """Parameters of the schedule; the module docstring says what they are."""

    tile: Tile
    loops: Loops = Loops()  # noqa: RUF009 - frozen
    unroll: int = 1


class DirectConvolution(Template[DirectChoice]):
    """Schedule functions around a `direct_convolution`."""

    block = BLOCK

    def default(
        self, sch: s_tir.Schedule, block: SBlockRV, target: tvm.target.Target
    ) -> DirectChoice:
        """Return the analytic tile, loops and unrolled length."""
        rows, columns, blocks = (int(value) for value in sch.get(block).annotations[TILE])
        tile = Tile(rows=rows, columns=columns, blocks=blocks)
        problem = _tile_problem(sch, block, target)
        even = extents(sch, block)[-1] % _UNROLL == 0
        unroll = _UNROLL if even and has_few_registers(problem) else 1
        return DirectChoice(tile=tile, loops=choose_loops(problem, tile), unroll=unroll)

    def choices(
        self, sch: s_tir.Schedule, parts: Parts, target: tvm.target.Target
    ) -> list[DirectChoice]:
        """Return tiles, loops and unrolled lengths."""
        block = parts[1]
        default = self.default(sch, block, target)
        problem = _tile_problem(sch, block, target)
        last = extents(sch, block)[-1]
        lengths = [n for n in divisors(last) if n <= MAX_UNROLL]
        estimates = []
        for tile in dividing_tiles(problem):
            for loops, unroll in product(_loops(problem, tile), lengths):
                steps = (loops != default.loops) + (unroll != default.unroll)
                choice = DirectChoice(tile=tile, loops=loops, unroll=unroll)
                estimates.append((cycles(problem, tile) * (1 + STEP * steps), choice))
        return ranked(default, estimates)

    def schedule(
        self, sch: s_tir.Schedule, parts: Parts, target: tvm.target.Target, choice: DirectChoice
    ) -> None:
        """Tile for the registers, in the order of `choice`."""
        before, block, after = parts
        for other in before:
            vectorize_last(sch, other)
            spread_over_cores(sch, sch.get_loops(other)[:2], target)
        groups = int(sch.get(block).annotations[GROUPS])
        n, o, y, x, lane, *reduction = sch.get_loops(block)
        group, o = sch.split(o, [groups, None])
        uneven = int(sch.get(o).extent) % choice.tile.blocks > 0
        o, o_in = sch.split(o, [None, choice.tile.blocks])
        y, y_in = sch.split(y, [None, choice.tile.rows])
        x, x_in = sch.split(x, [None, choice.tile.columns])
        if choice.unroll > 1:
            reduction[-1:] = sch.split(reduction[-1], [None, choice.unroll])
            sch.unroll(reduction[-1])
        loops = choice.loops
        if uneven and core_count(target) > 1:
            # Unrolled passes have no place outside the rows that several cores share.
            loops = Loops(order=Order.INPUT)
        sums = loops.order is Order.SUMS
        if sums:
            band, y = sch.split(y, [None, loops.band or sch.get(y).extent])
            first, rest = sch.split(reduction[0], [None, loops.chunk])
            reduction = [first, rest, *reduction[1:]]
            order = [o, band, first, y, x, *reduction[1:]]
        else:
            outer = [o, y] if loops.order is Order.WEIGHTS else [y, o]
            order = [*outer, x, *reduction]
        # Blocks innermost: each broadcast pixel value is used up before the next one is loaded.
        sch.reorder(*order, y_in, x_in, o_in, lane)
        append_epilogue(sch, block, after, band if sums else x, target, unrolled=not sums)
        unroll_tile(sch, [y_in, x_in, o_in], lane, target)
        if uneven:
            sch.unroll(o)
        spread_over_cores(sch, [n, group, *([y] if uneven else order[:2])], target)
        start = sch.decompose_reduction(block, reduction[0])
        *tile, lane = sch.get_loops(start)[-4:]
        unroll_tile(sch, tile, lane, target)


def _loops(problem: TileProblem, tile: Tile) -> list[Loops]:
    """Return the loops to try for a tile."""
    found = [Loops()]
    if problem.blocks > 1:
        found.append(Loops(order=Order.INPUT))
    if sums_fit(problem, tile):
        found.append(Loops(order=Order.SUMS))
    if can_be_chunked(problem, tile):
        found.append(chunked_loops(problem, tile))
    return list(dict.fromkeys(found))


def _tile_problem(sch: s_tir.Schedule, block: SBlockRV, target: tvm.target.Target) -> TileProblem:
    _, blocks, rows, columns, lanes, *reduction = extents(sch, block)
    groups = int(sch.get(block).annotations[GROUPS])
    return TileProblem(
        height=rows,
        width=columns,
        blocks=blocks // groups,
        vectors=-(-lanes // vector_lanes(target)),
        steps=prod(reduction),
        registers=vector_registers(target),
        vector_bytes=4 * vector_lanes(target),
        input_bytes=float_bytes(operands(sch, block)[0]) // groups,
        chunks=reduction[0],
    )
