# SPDX-License-Identifier: Apache-2.0
"""Winograd's convolution F(4 x 4, 3 x 3) in blocked layouts: the computation and its schedule.

For a tile of 4 x 4 output pixels, with d the 6 x 6 input pixels that they read and g the kernel
(Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4.3)::

    Y = A^T [ (G g G^T) * (B^T d B) ] A

36 multiplications for each pair of channels, where the direct method takes 144. The sums over the
input channels are 36 products of matrices, (tiles x channels) times (channels x outputs), and run
like 1 x 1 convolutions over the image of tiles. ``G g G^T`` is computed once, when weights are
packed, and is 4 times as large as g.

A band of rows of tiles is taken through all steps before the next one, so that its transformed
input stays in the cache.

Parameters of the template: the register tile of the products, and the rows of tiles in a band.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tvm
from tvm import s_tir, te
from tvm.s_tir.schedule import LoopRV, SBlockRV

from decnn_tvm.schedules.direct_convolution import pad, round_up
from decnn_tvm.schedules.epilogue import (
    append_epilogue,
    spread_over_cores,
    unroll_tile,
)
from decnn_tvm.schedules.register_tiles import Tile, TileProblem, cycles, dividing_tiles
from decnn_tvm.schedules.template import (
    Parts,
    Template,
    divisors,
    extents,
    float_bytes,
    operands,
    ranked,
)
from decnn_tvm.schedules.vectors import vector_lanes, vector_registers
from decnn_tvm.schedules.winograd_choice import band_cycles
from decnn_tvm.schedules.winograd_transforms import A_T, B_T, IN, KERNEL, OUT, combine

TILE = "decnn.tile"
BAND = "decnn.band"
BLOCK = "winograd_result"
_INPUT_ROWS, _INPUT, _PRODUCTS, _OUTPUT_ROWS = (
    "winograd_input_rows",
    "winograd_input",
    "winograd_products",
    "winograd_output_rows",
)


def winograd_convolution(
    data: te.Tensor,
    weight: te.Tensor,
    *,
    padding: Sequence[int],
    groups: int,
    tile: Tile,
    band: int,
) -> te.Tensor:
    """Return a 3 x 3 convolution of stride 1 of `data` (N, C/i, H, W, i), as (N, O/o, H', W', o).

    Parameters
    ----------
    data, weight
        Operands; the weight as `transform_weight` returns it.
    padding
        Top, left, bottom, right.
    groups
        Channel groups.
    tile
        Register tile of the products: rows and columns of tiles, blocks of output channels.
    band
        Rows of tiles that are taken through all steps together; a multiple of the tile's rows.
    """
    n, _, height, width, in_block = (int(extent) for extent in data.shape)
    blocks, _, chunks, _, out_block = (int(extent) for extent in weight.shape)
    out_h = height + padding[0] + padding[2] - KERNEL + 1
    out_w = width + padding[1] + padding[3] - KERNEL + 1
    rows, columns = round_up(-(-out_h // OUT), band), round_up(-(-out_w // OUT), tile.columns)
    need = (OUT * rows + KERNEL - 1, OUT * columns + KERNEL - 1)
    source = pad(data, padding[0], padding[1], *need)
    per_group = blocks // groups
    half = te.compute(
        (n, chunks * groups, rows, columns, IN, IN, in_block),
        lambda b, c, ty, tx, i, x, lane: combine(
            B_T, i, lambda y: source[b, c, OUT * ty + y, OUT * tx + x, lane]
        ),
        name=_INPUT_ROWS,
    )
    points = te.compute(
        (n, IN * IN, rows, columns, chunks * groups, in_block),
        lambda b, p, ty, tx, c, lane: combine(
            B_T, p % IN, lambda x: half[b, c, ty, tx, p // IN, x, lane]
        ),
        name=_INPUT,
    )
    chunk, i = te.reduce_axis((0, chunks), "ic"), te.reduce_axis((0, in_block), "i")

    def product(b: te.Var, o: te.Var, p: te.Var, ty: te.Var, tx: te.Var, lane: te.Var) -> te.Expr:
        first = o // per_group * chunks if groups > 1 else 0
        value = points[b, p, ty, tx, first + chunk, i] * weight[o, p, chunk, i, lane]
        return te.sum(value, axis=[chunk, i])

    products = te.compute((n, blocks, IN * IN, rows, columns, out_block), product, name=_PRODUCTS)
    half_result = te.compute(
        (n, blocks, rows, columns, OUT, IN, out_block),
        lambda b, o, ty, tx, y, j, lane: combine(
            A_T, y, lambda i: products[b, o, i * IN + j, ty, tx, lane]
        ),
        name=_OUTPUT_ROWS,
    )
    attrs = {TILE: [tile.rows, tile.columns, tile.blocks], BAND: band}
    result = te.compute(
        (n, blocks, OUT * rows, OUT * columns, out_block),
        lambda b, o, y, x, lane: combine(
            A_T, x % OUT, lambda j: half_result[b, o, y // OUT, x // OUT, y % OUT, j, lane]
        ),
        name=BLOCK,
        attrs=attrs,
    )
    return te.compute(
        (n, blocks, out_h, out_w, out_block), lambda *index: result[index], name="conv_result"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WinogradChoice:
    """Parameters of the schedule; the module docstring says what they are."""

    tile: Tile
    band: int


class WinogradConvolution(Template[WinogradChoice]):
    """Schedule functions around a `winograd_convolution`."""

    block = BLOCK

    def default(
        self, sch: s_tir.Schedule, block: SBlockRV, target: tvm.target.Target
    ) -> WinogradChoice:
        """Return the analytic tile and band."""
        annotations = sch.get(block).annotations
        rows, columns, blocks = (int(value) for value in annotations[TILE])
        tile = Tile(rows=rows, columns=columns, blocks=blocks)
        return WinogradChoice(tile=tile, band=int(annotations[BAND]))

    def choices(
        self, sch: s_tir.Schedule, parts: Parts, target: tvm.target.Target
    ) -> list[WinogradChoice]:
        """Return tiles of the products, and bands of whole tiles."""
        before, block, _ = parts
        *_, products, _ = before
        problem, source = _products_problem(sch, products, target)
        weights = float_bytes(operands(sch, products)[1])
        estimates = []
        for tile in dividing_tiles(problem):
            work, passes = IN * IN * cycles(problem, tile), problem.blocks // tile.blocks
            for band in divisors(problem.height, multiple=tile.rows):
                fetched = band_cycles(problem.height, band, source, weights, passes)
                estimates.append((work + fetched, WinogradChoice(tile=tile, band=band)))
        return ranked(self.default(sch, block, target), estimates)

    def schedule(
        self, sch: s_tir.Schedule, parts: Parts, target: tvm.target.Target, choice: WinogradChoice
    ) -> None:
        """Take bands of rows of tiles through all steps."""
        before, block, after = parts
        *padded, half, points, products, half_result = before
        vector = vector_lanes(target)

        _, o, y, x, lane = sch.get_loops(block)
        o, o_in = sch.split(o, [None, choice.tile.blocks])
        y, ty, y_in = sch.split(y, [None, choice.band, OUT])
        tx, x_in = sch.split(x, [None, OUT])
        part, lane = sch.split(lane, [None, vector])
        sch.reorder(y, o, o_in, ty, tx, part, y_in, x_in, lane)
        append_epilogue(sch, block, after, part, target)
        unroll_tile(sch, [y_in, x_in], lane, target)

        sch.compute_at(half_result, part, preserve_unit_loops=True)
        sch.set_scope(half_result, 0, "local")
        *_, i, j, lane = sch.get_loops(half_result)
        unroll_tile(sch, [i, j], lane, target)

        sch.compute_at(products, o, preserve_unit_loops=True)
        chunk = _schedule_products(sch, products, choice.tile.rows, choice.tile.columns, target)
        spread_over_cores(sch, [o], target)
        _unroll_last(sch, sch.decompose_reduction(products, chunk), 3, target)

        sch.compute_at(points, y, preserve_unit_loops=True)
        *_, p, ty, tx, chunk, lane = sch.get_loops(points)
        part, lane = sch.split(lane, [None, vector])
        sch.reorder(ty, tx, chunk, part, p, lane)
        sch.compute_at(half, part, preserve_unit_loops=True)
        sch.set_scope(half, 0, "local")
        unroll_tile(sch, [p], lane, target)
        *_, i, j, lane = sch.get_loops(half)
        unroll_tile(sch, [i, j], lane, target)
        for copy in padded:
            sch.compute_at(copy, y, preserve_unit_loops=True)
            *_, channels, _row, _column, lane = sch.get_loops(copy)
            sch.vectorize(lane)
            spread_over_cores(sch, [channels], target)
        spread_over_cores(sch, [ty, tx], target)


def _products_problem(
    sch: s_tir.Schedule, products: SBlockRV, target: tvm.target.Target
) -> tuple[TileProblem, int]:
    """Return the choice of a tile for the products, and the bytes of their transformed input."""
    _, blocks, _, rows, columns, lanes, chunks, in_block = extents(sch, products)
    points, _ = operands(sch, products)
    groups = points[4] // chunks
    problem = TileProblem(
        height=rows,
        width=columns,
        blocks=blocks // groups,
        vectors=-(-lanes // vector_lanes(target)),
        steps=chunks * in_block,
        registers=vector_registers(target),
        vector_bytes=4 * vector_lanes(target),
        even=True,
    )
    return problem, float_bytes(points[1:])


def _schedule_products(
    sch: s_tir.Schedule, products: SBlockRV, rows: int, columns: int, target: tvm.target.Target
) -> LoopRV:
    """Tile the products for the registers; return the outermost loop of the reduction."""
    *_, o, p, ty, tx, lane, chunk, i = sch.get_loops(products)
    ty, ty_in = sch.split(ty, [None, rows])
    tx, tx_in = sch.split(tx, [None, columns])
    sch.reorder(p, ty, tx, chunk, i, ty_in, tx_in, o, lane)
    copy = sch.cache_write(products, 0, "local")
    sch.reverse_compute_at(copy, tx, preserve_unit_loops=True)
    unroll_tile(sch, [ty_in, tx_in, o], lane, target)
    _unroll_last(sch, copy, 3, target)
    return chunk


def _unroll_last(
    sch: s_tir.Schedule, block: SBlockRV, count: int, target: tvm.target.Target
) -> None:
    *tile, lane = sch.get_loops(block)[-count - 1 :]
    unroll_tile(sch, tile, lane, target)
