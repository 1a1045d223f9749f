# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolution in a blocked layout: the computation and its schedule.

::

    C[n, c, y, x, lane] = sum over kh, kw of A[n, c, s y + d kh - p, s x + d kw - p, lane]
                                             W[c, kh, kw, lane]

A tile of pixels stays in registers while the window runs; lanes are vectorised, and rounded up to
whole vectors in the weights and in the padded copy of the input.
"""

from __future__ import annotations

from collections.abc import Sequence

import tvm
from tvm import s_tir, te, tirx
from tvm.s_tir.dlight.base import ScheduleRule

from decnn_tvm.schedules.direct_convolution import TILE, out_extent, pad, round_up
from decnn_tvm.schedules.epilogue import (
    append_epilogue,
    split_blocks,
    spread_over_cores,
    unroll_tile,
    vectorize_last,
)
from decnn_tvm.schedules.register_tiles import Tile

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


class DepthwiseConvolution(ScheduleRule):  # type: ignore[misc]
    """Schedule functions around a `depthwise_convolution`."""

    def apply(
        self, func: tirx.PrimFunc, target: tvm.target.Target, tunable: bool
    ) -> s_tir.Schedule | None:
        """Return the schedule, or None for other functions."""
        sch = s_tir.Schedule(func)
        parts = split_blocks(sch, BLOCK)
        if parts is None:
            return None
        before, block, after = parts
        rows, columns = (int(value) for value in sch.get(block).annotations[TILE])
        n, c, y, x, lane, kh, kw = sch.get_loops(block)
        y, y_in = sch.split(y, [None, rows])
        x, x_in = sch.split(x, [None, columns])
        sch.reorder(y, x, kh, kw, y_in, x_in, lane)
        for other in before:
            # One channel block of padded input at a time: it stays in the cache.
            sch.compute_at(other, c, preserve_unit_loops=True)
            vectorize_last(sch, other)
        append_epilogue(sch, block, after, x)
        unroll_tile(sch, [kw, y_in, x_in], lane)
        spread_over_cores(sch, [n, c], target)
        start = sch.decompose_reduction(block, kh)
        *tile, lane = sch.get_loops(start)[-3:]
        unroll_tile(sch, tile, lane)
        return sch
