# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decnn_tvm.schedules.register_tiles import MAX_UNEVEN, TileProblem, choose_tile, cycles

sizes = st.integers(1, 70)


@given(
    sizes,
    sizes,
    st.integers(1, 20),
    st.integers(1, 4),
    st.sampled_from([15, 31, 32]),
    st.booleans(),
)
def test_a_tile_fits_the_registers_and_the_channel_blocks(
    height: int, width: int, blocks: int, vectors: int, registers: int, even: bool
) -> None:
    problem = TileProblem(
        height=height,
        width=width,
        blocks=blocks,
        vectors=vectors,
        steps=9,
        registers=registers,
        vector_bytes=64,
        even=even,
    )
    tile = choose_tile(problem)
    sums = tile.rows * tile.columns * tile.blocks * vectors
    assert sums + tile.blocks * vectors <= registers
    assert blocks % tile.blocks == 0 or (not even and blocks / tile.blocks <= MAX_UNEVEN)
    assert tile.rows <= height and tile.columns <= width


@pytest.mark.parametrize("width", [7, 14, 28, 56, 112])
def test_common_widths_are_tiled_without_waste(width: int) -> None:
    problem = TileProblem(
        height=width,
        width=width,
        blocks=4,
        vectors=1,
        steps=576,
        registers=32,
        vector_bytes=64,
        copied=100.0,
    )
    tile = choose_tile(problem)
    assert width % tile.columns == 0 and width % tile.rows == 0
    assert tile.rows * tile.columns * tile.blocks >= 14


def test_fewer_steps_never_cost_more() -> None:
    problem = TileProblem(
        height=13, width=13, blocks=2, vectors=1, steps=8, registers=32, vector_bytes=64
    )
    longer = TileProblem(
        height=13, width=13, blocks=2, vectors=1, steps=9, registers=32, vector_bytes=64
    )
    tile = choose_tile(problem)
    assert cycles(problem, tile) < cycles(longer, tile)


def test_seven_channel_blocks_are_taken_as_four_and_three() -> None:
    problem = TileProblem(
        height=28,
        width=28,
        blocks=7,
        vectors=1,
        steps=224,
        registers=32,
        vector_bytes=64,
        input_bytes=4 * 224 * 28 * 28,
    )
    assert choose_tile(problem).blocks == 4
