# SPDX-License-Identifier: Apache-2.0
"""The inner loops of AArch64 kernels, read without a board."""

from __future__ import annotations

import pytest

from decnn_tvm.targets import resolve_target
from decnn_tvm.testing.assembly import Loop, hot_loop
from decnn_tvm.testing.layers import ARM_CPUS, MAIN_KERNELS, WINOGRAD, arm_target, assembly

# The whole window of a depthwise convolution is one loop body, which stores its results too.
REDUCTIONS = [name for name in MAIN_KERNELS if name != "depthwise 3x3"]


def loop_of(name: str, cpu: str) -> Loop:
    target = resolve_target(arm_target(cpu)).target
    return hot_loop(assembly(MAIN_KERNELS[name](), target, winograd=name in WINOGRAD))


@pytest.mark.parametrize("name", REDUCTIONS)
@pytest.mark.parametrize("cpu", ARM_CPUS)
def test_sums_stay_in_registers(cpu: str, name: str) -> None:
    loop = loop_of(name, cpu)
    assert loop.multiply_adds >= 8
    assert loop.stack_accesses == loop.stores == 0


@pytest.mark.parametrize("cpu", ARM_CPUS)
def test_few_sums_of_a_window_are_spilled(cpu: str) -> None:
    loop = loop_of("depthwise 3x3", cpu)
    assert loop.multiply_adds >= 64
    assert loop.stack_accesses <= loop.multiply_adds / 16
