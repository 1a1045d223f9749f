# SPDX-License-Identifier: Apache-2.0
"""Choice between the direct method and Winograd's for a 3 x 3 convolution, by estimated cycles."""

from __future__ import annotations

from dataclasses import dataclass

from decnn_tvm.schedules.register_tiles import (
    Tile,
    TileProblem,
    choose_tile,
    cycles,
    first_read_cycles,
    streaming_cycles,
)
from decnn_tvm.schedules.template import divisors
from decnn_tvm.schedules.winograd_transforms import IN, KERNEL, OUT

# Cycles for a vector of a tile: about 100 sums and 36 stores; fewer for the smaller output.
INPUT_CYCLES, OUTPUT_CYCLES = 100.0, 80.0
# Packed weights are four times as large, so a smaller gain is not worth it.
LEAST_GAIN = 1.15
_FLOAT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class WinogradPlan:
    """The parameters of a `winograd_convolution`."""

    tile: Tile
    band: int


def choose_winograd(
    direct: TileProblem, inputs: int, outputs: int, lanes: int
) -> WinogradPlan | None:
    """Return how to compute a 3 x 3 convolution of stride 1 by Winograd's method, if it pays.

    Parameters
    ----------
    direct
        The same convolution as the direct method sees it.
    inputs, outputs
        Channels of a group.
    lanes
        Channels of a vector.
    """
    height, width = -(-direct.height // OUT), -(-direct.width // OUT)
    products = TileProblem(
        height=height,
        width=width,
        blocks=direct.blocks,
        vectors=direct.vectors,
        steps=inputs,
        registers=direct.registers,
        vector_bytes=direct.vector_bytes,
        even=True,
    )
    tile = choose_tile(products)
    rows = -(-height // tile.rows) * tile.rows
    passes = -(-products.blocks // tile.blocks)
    source = IN * IN * rows * width * inputs * _FLOAT
    weights = inputs * outputs * _FLOAT

    def fetched(band: int) -> float:
        return band_cycles(rows, band, source, IN * IN * weights, passes)

    band = min(divisors(rows, multiple=tile.rows), key=lambda band: (fetched(band), -band))
    tiles = rows * -(-width // tile.columns) * tile.columns
    ours = IN * IN * cycles(products, tile)
    ours += tiles * (INPUT_CYCLES * inputs + OUTPUT_CYCLES * outputs) / lanes
    ours += first_read_cycles(IN * IN * weights) + fetched(band)
    theirs = cycles(direct, choose_tile(direct)) + first_read_cycles(KERNEL * KERNEL * weights)
    if theirs < LEAST_GAIN * ours:
        return None
    return WinogradPlan(tile=tile, band=band)


def band_cycles(rows: int, band: int, source: int, weights: int, passes: int) -> float:
    """Estimate the cycles for what is fetched anew from beyond the cache.

    Parameters
    ----------
    rows, band
        Rows of tiles in all, and in a band.
    source
        Bytes of the transformed input of all rows: a band of it that outgrows the cache is written
        once and read in every pass.
    weights
        Bytes that every band but the first reads again.
    passes
        Over the channel blocks.
    """
    bands = rows // band
    spilled = (1 + passes) * streaming_cycles(source / bands)
    return bands * spilled + (bands - 1) * streaming_cycles(weights)
