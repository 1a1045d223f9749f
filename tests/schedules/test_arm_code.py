# SPDX-License-Identifier: Apache-2.0
"""The inner loops of AArch64 kernels, read without a board."""

from __future__ import annotations

from typing import Any

import pytest
import tvm
from tvm import relax

from decnn_tvm.lowering import lower_stages
from decnn_tvm.schedules.apply import ScheduleKernels, is_layer
from decnn_tvm.targets import resolve_target
from decnn_tvm.testing.assembly import Loop, hot_loop
from decnn_tvm.testing.stages import random_array, stage_module

SPILLS = pytest.mark.xfail(
    strict=True, raises=AssertionError, reason="16 lanes are four registers: LLVM unrolls, spills"
)


def convolution(inputs: int, outputs: int, kernel: int, block: int) -> tvm.IRModule:
    x, w = random_array(1, inputs, 28, 28), random_array(outputs, inputs, kernel, kernel)
    attrs = {"decnn.input_blocks": [block], "decnn.output_blocks": [block]}

    def body(builder: Any, x: Any, w: Any) -> Any:
        return builder.emit(relax.op.nn.conv2d(x, w, padding=kernel // 2))

    return stage_module([x], [w], body, attrs=attrs)


def dense() -> tvm.IRModule:
    def body(builder: Any, x: Any, w: Any) -> Any:
        return builder.emit(relax.op.matmul(x, w))

    return stage_module([random_array(1, 512)], [random_array(512, 1000)], body)


LAYERS = {
    "1x1": lambda: convolution(64, 64, 1, 8),
    "3x3": lambda: convolution(64, 64, 3, 8),
    "dense": dense,
    "1x1 in blocks of 16": lambda: convolution(64, 64, 1, 16),
}


@pytest.mark.parametrize(
    "name", ["1x1", "3x3", "dense", pytest.param("1x1 in blocks of 16", marks=SPILLS)]
)
@pytest.mark.parametrize("cpu", ["cortex-a72", "cortex-a76"])
def test_sums_stay_in_registers(cpu: str, name: str) -> None:
    loop = compiled_loop(LAYERS[name](), cpu)
    assert loop.multiply_adds >= 8
    assert (loop.stack_accesses, loop.stores) == (0, 0)


def compiled_loop(mod: tvm.IRModule, cpu: str) -> Loop:
    """Return the hot loop of the one layer of `mod`."""
    names = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": cpu, "mattr": ["+neon"]}
    target = resolve_target(names).target
    lowered = lower_stages(mod, target)
    (layer,) = (func for _, func in lowered.functions_items() if is_layer(func))
    with target:
        scheduled = ScheduleKernels()(tvm.IRModule({"layer": layer}))
        kernel = tvm.IRModule({"layer": scheduled["layer"].with_attr("global_symbol", "layer")})
    return hot_loop(tvm.compile(kernel, target=target).mod.inspect_source("s"))
