# SPDX-License-Identifier: Apache-2.0
"""Analytic choice of register tiles, from the registers and the vector width of a target.

A kernel keeps a tile of `rows` x `columns` pixels x `blocks` channel blocks in registers. One step
of its reduction loads one weight vector per block and broadcasts one value per pixel, and does one
fused multiply-add per pixel and weight vector. The weights of a tile's blocks, its panel, are read
for every tile of pixels, and the input for every tile of blocks.

The constants were fitted to 93 convolutions of six networks with some 20 tiles each, timed on a
Sapphire Rapids with AVX-512: the tile with the fewest estimated cycles is on average 5 % slower
than the fastest of those that were timed.

A tile of 15 registers holds few pixels, so that its panel is read often. There a large panel is
taken in chunks of input channels that stay in the first-level cache, and the sums of a band of rows
wait in memory between chunks (measured on a Zen 3 with AVX2: 1.1 to 1.5 times as fast for panels of
64 KiB and more).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

# Fused multiply-adds under way at once that hide their latency: 4 cycles on 2 ports.
CHAINS = 8
# Cycles for a load: nearly two at once.
LOAD_CYCLES = 0.55
# A panel that outgrows the first-level cache comes from the second, for each of its vectors.
L1_BYTES = 32 << 10
PANEL_CYCLES = 0.5
# What may stay there of a chunk's panel, and of the sums that wait; up to `WHOLE_BYTES` a panel is
# left whole, and a chunk may take as much where one block of input channels needs it. Only AVX2 was
# measured with chunks, not the other targets of few registers (SSE, 32-bit Arm).
CHUNK_BYTES, SUMS_BYTES, WHOLE_BYTES = L1_BYTES // 4, L1_BYTES // 2, L1_BYTES // 4 * 3
FEW_REGISTERS = 15
# A vector of sums that is loaded and stored once more.
SUM_CYCLES = 2.0
# Cycles for a cache line of input each time that it is read anew.
LINE_BYTES, LINE_CYCLES = 64, 4.0
# A vector of results: the epilogue and storing.
STORE_CYCLES = 2.0
# A tensor that outgrows the cache streams from memory, at so many bytes per cycle: 12 of them came
# from the L3 of a Sapphire Rapids. 1 MiB is the L2 of a Cortex-A72 cluster and half of that core's.
CACHE_BYTES = 1 << 20
STREAM_BYTES = 8.0
# Weights come from memory once an image, since those of a network outgrow the caches: what Winograd
# layers took longer inside their networks than alone makes 3.3 to 3.7 bytes per cycle.
MEMORY_BYTES = 3.5
# Cycles per vector copied into a padded input: a load, a store and their cache misses.
COPY_CYCLES = 2.0
# Passes over the channel blocks whose last is smaller are unrolled, each with a kernel of its own.
MAX_UNEVEN = 4
MAX_BLOCKS = 8
MAX_ROWS = 4
# A tuner may try higher tiles than the model prefers.
MAX_TUNED_ROWS = 8
_FLOAT = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """Pixels and channel blocks that are computed together."""

    rows: int
    columns: int
    blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TileProblem:
    """What the choice of a tile depends on.

    Attributes
    ----------
    height, width
        Output pixels.
    blocks
        Channel blocks per group, taken in at most `MAX_UNEVEN` passes if a tile's do not divide it.
    vectors
        Vector registers that one channel block takes.
    steps
        Length of the reduction.
    registers
        Vector registers of the target, without those that broadcast values need.
    vector_bytes
        Size of such a register.
    copied
        Vectors that a copy of the input takes if the output must be extended; 0 if it is copied
        anyway.
    input_bytes
        Size of the input, which is read once for each tile of channel blocks.
    even
        A tile's channel blocks must divide those of the group.
    chunks
        Blocks of input channels, in which the reduction can be divided.
    """

    height: int
    width: int
    blocks: int
    vectors: int
    steps: int
    registers: int
    vector_bytes: int
    copied: float = 0.0
    input_bytes: int = 0
    even: bool = False
    chunks: int = 1


def convolution_problem(
    *,
    pixels: tuple[int, int],
    blocks: int,
    lanes: int,
    steps: int,
    source: int,
    copied: bool,
    vector_lanes: int,
    registers: int,
    chunks: int,
) -> TileProblem:
    """Return the choice of a tile for one group of a direct convolution.

    Parameters
    ----------
    pixels
        Height and width of the output.
    blocks, lanes
        Channel blocks of the group, and channels of one.
    steps
        Length of the reduction.
    source
        Elements of the group's input.
    copied
        The input is padded, so that it is copied whatever the tile.
    vector_lanes, registers
        Elements of a vector register, and how many there are.
    chunks
        Blocks of the group's input channels.
    """
    return TileProblem(
        height=pixels[0],
        width=pixels[1],
        blocks=blocks,
        vectors=-(-lanes // vector_lanes),
        steps=steps,
        registers=registers,
        vector_bytes=_FLOAT * vector_lanes,
        copied=0.0 if copied else source / vector_lanes,
        input_bytes=_FLOAT * source,
        chunks=chunks,
    )


def streaming_cycles(size: float) -> float:
    """Estimate the cycles for reading `size` bytes once, where they outgrow the cache."""
    return size / STREAM_BYTES if size > CACHE_BYTES else 0.0


def first_read_cycles(size: float) -> float:
    """Estimate the cycles for reading `size` bytes of weights from memory."""
    return size / MEMORY_BYTES


def choose_tile(problem: TileProblem) -> Tile:
    """Return the tile with the fewest estimated cycles for a whole group of channels."""
    tiles = _candidates(problem, MAX_ROWS)
    return min(tiles, key=lambda tile: (cycles(problem, tile), -tile.columns, -tile.blocks))


def dividing_tiles(problem: TileProblem) -> list[Tile]:
    """Return the tiles that fit the registers and divide height and width."""
    return [
        tile
        for tile in _candidates(problem, MAX_TUNED_ROWS)
        if problem.height % tile.rows == 0 and problem.width % tile.columns == 0
    ]


def cycles(problem: TileProblem, tile: Tile, *, keeps_input: bool = False) -> float:
    """Estimate the cycles that `problem` takes with `tile`.

    With `keeps_input` the input of a row of tiles stays in the cache for all channel blocks.
    """
    rows, columns = -(-problem.height // tile.rows), -(-problem.width // tile.columns)
    passes, left = divmod(problem.blocks, tile.blocks)
    each = passes * _tile_cycles(problem, tile)
    if left:
        each += _tile_cycles(problem, replace(tile, blocks=left))
    extended = problem.height % tile.rows or problem.width % tile.columns
    copy = COPY_CYCLES * problem.copied if extended else 0.0
    reads = 1 if keeps_input else passes + bool(left)
    lines = reads * problem.input_bytes / LINE_BYTES * LINE_CYCLES
    return rows * columns * each + copy + lines


def _tile_cycles(problem: TileProblem, tile: Tile) -> float:
    """Estimate the cycles of one tile."""
    pixels, vectors = tile.rows * tile.columns, tile.blocks * problem.vectors
    work = max(pixels * vectors / 2, LOAD_CYCLES * (pixels + vectors), CHAINS / 2)
    stored = STORE_CYCLES
    if is_chunked(problem, tile):
        stored += SUM_CYCLES * (problem.chunks // chunk_length(problem, tile) - 1)
    elif panel_bytes(problem, tile.blocks) > L1_BYTES:
        work += PANEL_CYCLES * vectors
    return problem.steps * work + stored * pixels * vectors


def panel_bytes(problem: TileProblem, blocks: int) -> int:
    """Return the size of the weights of `blocks` channel blocks, in whole vectors."""
    return problem.steps * blocks * problem.vectors * problem.vector_bytes


def has_few_registers(problem: TileProblem) -> bool:
    """Tell whether tiles are small, so that weights are read often."""
    return problem.registers <= FEW_REGISTERS


def is_chunked(problem: TileProblem, tile: Tile) -> bool:
    """Tell whether the reduction is best taken in chunks."""
    large = panel_bytes(problem, tile.blocks) > WHOLE_BYTES
    return has_few_registers(problem) and large and can_be_chunked(problem, tile)


def can_be_chunked(problem: TileProblem, tile: Tile) -> bool:
    """Tell whether there are chunks whose weights, and a row of whose sums, stay in the cache."""
    if chunk_length(problem, tile) == problem.chunks:
        return False
    least = panel_bytes(problem, tile.blocks) // problem.chunks
    return least <= WHOLE_BYTES and row_bytes(problem, tile) <= L1_BYTES


def chunk_length(problem: TileProblem, tile: Tile) -> int:
    """Return the most blocks of input channels whose panel fits `CHUNK_BYTES`, but at least one."""
    whole = panel_bytes(problem, tile.blocks)
    return max(
        length
        for length in range(1, problem.chunks + 1)
        if problem.chunks % length == 0
        and (length == 1 or whole * length <= CHUNK_BYTES * problem.chunks)
    )


def row_bytes(problem: TileProblem, tile: Tile) -> int:
    """Return the size of the sums of a row of tiles."""
    columns = -(-problem.width // tile.columns) * tile.columns
    return tile.rows * columns * tile.blocks * problem.vectors * problem.vector_bytes


def _candidates(problem: TileProblem, max_rows: int) -> list[Tile]:
    room = max(2, problem.registers // problem.vectors)
    shapes = product(
        range(1, min(max_rows, problem.height) + 1),
        range(1, min(room - 1, problem.width) + 1),
        [size for size in range(1, MAX_BLOCKS + 1) if _is_taken(problem, size)],
    )
    return [
        Tile(rows=rows, columns=columns, blocks=blocks)
        for rows, columns, blocks in shapes
        if (rows * columns + 1) * blocks <= room
    ]


def _is_taken(problem: TileProblem, size: int) -> bool:
    passes, left = divmod(problem.blocks, size)
    return passes > 0 and (not left or (not problem.even and passes < MAX_UNEVEN))
