# SPDX-License-Identifier: Apache-2.0
"""The choice of register tiles for dense layers."""

from __future__ import annotations

from typing import Any

import pytest

from decnn_tvm.schedules.dense_lowering import dense_tile
from decnn_tvm.schedules.vectors import vector_registers
from decnn_tvm.targets import resolve_target

AVX2 = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "haswell"}
AVX512 = {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": "skylake-avx512"}
TARGETS = [AVX2, AVX512, "rpi4"]


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize(
    ("needed", "vectors"), [(1, 1), (2, 2), (3, 1), (5, 1), (8, 8), (12, 4), (63, 8), (125, 8)]
)
def test_one_row_has_many_sums_under_way_and_little_padding(
    needed: int, vectors: int, target: Any
) -> None:
    own = resolve_target(target).target
    lanes = {"skylake-avx512": 16, "haswell": 8, "cortex-a72": 4}[str(own.attrs["mcpu"])]
    assert dense_tile(1, 512, needed * lanes, own) == (vectors, 1)


def test_rows_and_vectors_share_the_registers() -> None:
    own = resolve_target(AVX2).target
    assert dense_tile(8, 512, 1000, own) == (2, 4)
    assert dense_tile(196, 512, 2048, own) == (2, 4)


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("batch", [2, 7, 8, 49, 53, 128])
def test_tiles_fit_the_registers_and_divide_the_batch(batch: int, target: Any) -> None:
    own = resolve_target(target).target
    for outputs in (10, 40, 64, 1000, 4096):
        vectors, rows = dense_tile(batch, 512, outputs, own)
        assert batch % rows == 0
        assert rows == 1 or (rows + 1) * vectors <= vector_registers(own)
