# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest

from decnn_tvm.schedules.loop_order import Loops, Order, choose_loops, sums_bytes
from decnn_tvm.schedules.register_tiles import (
    CHUNK_BYTES,
    FEW_REGISTERS,
    SUMS_BYTES,
    Tile,
    TileProblem,
    convolution_problem,
    panel_bytes,
)


def problem(channels: int, size: int, *, registers: int = FEW_REGISTERS) -> TileProblem:
    return convolution_problem(
        pixels=(size, size),
        blocks=16,
        lanes=16,
        steps=channels,
        source=channels * size * size,
        copied=False,
        vector_lanes=8 if registers == FEW_REGISTERS else 16,
        registers=registers,
        chunks=channels // 16,
    )


@pytest.mark.parametrize("size", [7, 14, 28, 56])
@pytest.mark.parametrize("channels", [512, 1024, 2048])
def test_chunks_and_bands_share_the_first_level_cache(channels: int, size: int) -> None:
    wide, tile = problem(channels, size), Tile(rows=1, columns=2, blocks=2)
    loops = choose_loops(wide, tile)
    assert loops.order is Order.SUMS
    assert wide.chunks % loops.chunk == 0
    assert panel_bytes(wide, 2) * loops.chunk <= CHUNK_BYTES * wide.chunks
    bands = size // (loops.band or size)
    assert bands * (loops.band or size) == size
    assert sums_bytes(wide, tile) <= SUMS_BYTES * bands


def test_narrow_reductions_and_many_registers_are_left_whole() -> None:
    tile = Tile(rows=1, columns=2, blocks=2)
    assert choose_loops(problem(64, 14), tile) == Loops()
    assert choose_loops(problem(1024, 14, registers=32), tile).chunk == 1
    whole = replace(problem(1024, 14), chunks=1)
    assert choose_loops(whole, tile).order is not Order.SUMS
