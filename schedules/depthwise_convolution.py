# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolution in a blocked layout: the computation and its schedule.

::

    C[n, c, y, x, lane] = sum over kh, kw of A[n, c, s y + d kh - p, s x + d kw - p, lane]
                                             W[c, kh, kw, lane]

A tile of pixels of one vector stays in registers while the window runs; then comes the next vector
of the block. Lanes are rounded up to whole vectors in the weights and in the padded copy of the
input.

Parameters of the template: the tile, and whether all of the window is unrolled or only its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tvm
from tvm import s_tir, te
from tvm.s_tir.schedule import SBlockRV

from decnn_tvm.schedules.direct_convolution import TILE, out_extent, pad, round_up
from decnn_tvm.schedules.epilogue import (
    append_epilogue,
    spread_over_cores,
    unroll_tile,
    vectorize_last,
)
from decnn_tvm.schedules.register_tiles import Tile, TileProblem, cycles, dividing_tiles
from decnn_tvm.schedules.template import STEP, Parts, Template, extents, ranked
from decnn_tvm.schedules.vectors import vector_lanes, vector_registers

BLOCK = "depthwise_convolution"


def depthwise_convolution(
    data: te.Tensor,
    weight: te.Tensor,
    *,
    strides: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    tile: Tile,
) -> te.Tensor:
    """Return the depthwise convolution of `data` (N, C/b, H, W, b).

    Parameters
    ----------
    data, weight
        Weights are (C/b, KH, KW, lanes) with lanes >= b.
    strides, dilation
        Of height and width.
    padding
        Top, left, bottom, right.
    tile
        Register tile; its blocks are 1.
    """
    n, blocks, height, width, block = (int(extent) for extent in data.shape)
    _, kh, kw, lanes = (int(extent) for extent in weight.shape)
    out_h = out_extent(height, padding[0] + padding[2], dilation[0] * (kh - 1), strides[0])
    out_w = out_extent(width, padding[1] + padding[3], dilation[1] * (kw - 1), strides[1])
    rows, columns = round_up(out_h, tile.rows), round_up(out_w, tile.columns)
    need_h = (rows - 1) * strides[0] + dilation[0] * (kh - 1) + 1
    need_w = (columns - 1) * strides[1] + dilation[1] * (kw - 1) + 1
    source = pad(data, padding[0], padding[1], need_h, need_w, lanes)
    rkh, rkw = te.reduce_axis((0, kh), "kh"), te.reduce_axis((0, kw), "kw")
    result = te.compute(
        (n, blocks, rows, columns, lanes),
        lambda b, c, y, x, lane: te.sum(
            source[
                b, c, y * strides[0] + rkh * dilation[0], x * strides[1] + rkw * dilation[1], lane
            ]
            * weight[c, rkh, rkw, lane],
            axis=[rkh, rkw],
        ),
        name=BLOCK,
        attrs={TILE: [tile.rows, tile.columns]},
    )
    shape = (n, blocks, out_h, out_w, block)
    return te.compute(shape, lambda *index: result[index], name="conv_result")


def depthwise_problem(
    height: int, width: int, window: tuple[int, int], target: tvm.target.Target
) -> TileProblem:
    """Return the choice of a tile for output of `height` x `width` pixels."""
    return TileProblem(
        height=height,
        width=width,
        blocks=1,
        vectors=1,
        steps=window[0] * window[1],
        registers=vector_registers(target) - window[1],  # a row of the window stays too
        vector_bytes=4 * vector_lanes(target),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthwiseChoice:
    """Parameters of the schedule; the module docstring says what they are."""

    tile: Tile
    whole_window: bool = False


class DepthwiseConvolution(Template[DepthwiseChoice]):
    """Schedule functions around a `depthwise_convolution`."""

    block = BLOCK

    def default(
        self, sch: s_tir.Schedule, block: SBlockRV, target: tvm.target.Target
    ) -> DepthwiseChoice:
        """Return the analytic tile, with the rows of the window unrolled."""
        rows, columns = (int(value) for value in sch.get(block).annotations[TILE])
        return DepthwiseChoice(tile=Tile(rows=rows, columns=columns, blocks=1))

    def choices(
        self, sch: s_tir.Schedule, parts: Parts, target: tvm.target.Target
    ) -> list[DepthwiseChoice]:
        """Return tiles, with rows or all of the window unrolled."""
        block = parts[1]
        _, _, rows, columns, _, kh, kw = extents(sch, block)
        problem = depthwise_problem(rows, columns, (kh, kw), target)
        estimates = [
            (
                cycles(problem, tile) * (1 + STEP * whole),
                DepthwiseChoice(tile=tile, whole_window=whole),
            )
            for tile in dividing_tiles(problem)
            for whole in ((False, True) if kh > 1 else (False,))
        ]
        return ranked(self.default(sch, block, target), estimates)

    def schedule(
        self, sch: s_tir.Schedule, parts: Parts, target: tvm.target.Target, choice: DepthwiseChoice
    ) -> None:
        """Tile for the registers."""
        before, block, after = parts
        n, c, y, x, lane, kh, kw = sch.get_loops(block)
        y, y_in = sch.split(y, [None, choice.tile.rows])
        x, x_in = sch.split(x, [None, choice.tile.columns])
        vector = min(vector_lanes(target), extents(sch, block)[4])
        part, lane = sch.split(lane, [None, vector])
        sch.reorder(y, x, part, kh, kw, y_in, x_in, lane)
        for other in before:
            # One channel block of padded input at a time: it stays in the cache.
            sch.compute_at(other, c, preserve_unit_loops=True)
            vectorize_last(sch, other)
        append_epilogue(sch, block, after, part, target)
        unroll_tile(sch, [kw, y_in, x_in], lane, target)
        spread_over_cores(sch, [n, c], target)
        start = sch.decompose_reduction(block, kh)
        *tile, lane = sch.get_loops(start)[-3:]
        unroll_tile(sch, tile, lane, target)
        if choice.whole_window:
            sch.unroll(kh)
