# SPDX-License-Identifier: Apache-2.0
"""Order of the loops outside the register tile of a direct convolution."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from decnn_tvm.schedules.register_tiles import (
    CACHE_BYTES,
    L1_BYTES,
    SUMS_BYTES,
    Tile,
    TileProblem,
    chunk_length,
    is_chunked,
    panel_bytes,
    row_bytes,
)
from decnn_tvm.schedules.template import divisors

# Weights of a tile from which on the order that fetches each once is faster. On a Sapphire Rapids,
# 512 KiB and more for 7 x 7 pixels gained 9 to 26 %, 256 KiB 10 %, 128 KiB lost 3 %.
LARGE_PANEL = CACHE_BYTES // 4


class Order(Enum):
    """What the loops outside a tile keep in the cache.

    Attributes
    ----------
    WEIGHTS
        Channel blocks outermost, then rows: the weights of a tile's blocks.
    INPUT
        Rows outermost, then channel blocks: the input of a row of tiles.
    SUMS
        Channel blocks outermost, then bands of rows, chunks of input channels, and rows: the sums
        of a block's band, which wait in memory between chunks. A band may be the whole image. Each
        weight is then fetched once, while the chunk before it is used, rather than all of them at
        the first tile; and the weights of a chunk stay in the first-level cache.
    """

    WEIGHTS = "weights"
    INPUT = "input"
    SUMS = "sums"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loops:
    """The loops outside a tile.

    Attributes
    ----------
    order
        What they keep in the cache.
    chunk
        Blocks of input channels from one look at the sums to the next, with `Order.SUMS`.
    band
        Rows of tiles whose sums wait together, with `Order.SUMS`; 0 for all.
    """

    order: Order = Order.WEIGHTS
    chunk: int = 1
    band: int = 0


def choose_loops(problem: TileProblem, tile: Tile) -> Loops:
    """Return the loops for one group of a convolution.

    Sums or input are kept, if they fit where the rest does not. In their networks layers with a
    large input gained up to 1.2 with `Order.INPUT`.
    """
    if is_chunked(problem, tile):
        return chunked_loops(problem, tile)
    if sums_fit(problem, tile) and panel_bytes(problem, tile.blocks) >= LARGE_PANEL:
        return Loops(order=Order.SUMS)
    weights = panel_bytes(problem, problem.blocks)
    large = problem.input_bytes > CACHE_BYTES
    if problem.blocks > tile.blocks and large and 2 * weights <= CACHE_BYTES:
        return Loops(order=Order.INPUT)
    return Loops()


def chunked_loops(problem: TileProblem, tile: Tile) -> Loops:
    """Return `Order.SUMS` for a problem that can be chunked, with bands of at least one row."""
    rows, size = -(-problem.height // tile.rows), row_bytes(problem, tile)
    band = max(n for n in divisors(rows) if n == 1 or n * size <= SUMS_BYTES)
    return Loops(
        order=Order.SUMS,
        chunk=chunk_length(problem, tile),
        band=0 if band == rows else band,
    )


def sums_fit(problem: TileProblem, tile: Tile) -> bool:
    """Tell whether the sums of a tile's blocks fit the first-level cache for a whole image."""
    several = problem.height > tile.rows or problem.width > tile.columns
    return problem.chunks > 1 and several and 2 * sums_bytes(problem, tile) <= L1_BYTES


def sums_bytes(problem: TileProblem, tile: Tile) -> int:
    """Return the size of the sums of a tile's blocks for a whole image."""
    return -(-problem.height // tile.rows) * row_bytes(problem, tile)
