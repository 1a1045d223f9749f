# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
import tvm

from decnn_tvm.schedules.vectors import vector_lanes, vector_registers


@pytest.mark.parametrize(
    ("options", "lanes", "registers"),
    [
        ({"mcpu": "x86-64-v2"}, 4, 15),
        ({"mcpu": "haswell"}, 8, 15),
        ({"mcpu": "znver3"}, 8, 15),
        ({"mcpu": "alderlake"}, 8, 15),
        ({"mcpu": "x86-64-v2", "mattr": ["+avx2"]}, 8, 15),
        ({"mcpu": "rocketlake"}, 16, 32),
        ({"mcpu": "znver4"}, 16, 32),
        ({"mcpu": "znver4", "mattr": ["-avx512f"]}, 8, 15),
        ({"mcpu": "rocketlake", "vector-width": 256}, 8, 15),
        ({"mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"}, 4, 31),
        ({"mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-v1"}, 4, 31),
        ({"mtriple": "i686-linux-gnu", "mcpu": "pentium4"}, 4, 7),
        ({"mtriple": "armv7l-linux-gnueabihf", "mcpu": "cortex-a7"}, 4, 15),
    ],
    ids=str,
)
def test_vectors_of_a_processor(options: dict[str, Any], lanes: int, registers: int) -> None:
    target = tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", **options})
    assert vector_lanes(target) == lanes
    assert vector_registers(target) == registers
