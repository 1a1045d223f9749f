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
    is_chunked,
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


def test_what_does_not_fit_the_cache_is_left_whole() -> None:
    tile = Tile(rows=1, columns=2, blocks=2)
    wide, image = problem(1024, 14), replace(problem(1024, 14), height=1, width=16000)
    assert is_chunked(wide, tile) and not is_chunked(image, tile)
    # One block of input channels under a 7x7 kernel is 100 KB.
    assert not is_chunked(replace(wide, steps=49 * 1024), tile)


def test_narrow_reductions_and_many_registers_are_left_whole() -> None:
    tile = Tile(rows=1, columns=2, blocks=2)
    assert choose_loops(problem(64, 14), tile) == Loops()
    assert choose_loops(problem(1024, 14, registers=32), tile).chunk == 1
    whole = replace(problem(1024, 14), chunks=1)
    assert choose_loops(whole, tile).order is not Order.SUMS
