# SPDX-License-Identifier: Apache-2.0
"""Stages of a single layer, and the kernel that comes of one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import tvm
from tvm import relax

from decnn_tvm.lowering import lower_stages
from decnn_tvm.schedules.apply import ScheduleKernels, is_layer
from decnn_tvm.testing.stages import random_array, stage_module


def convolution(
    inputs: int,
    outputs: int,
    size: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    blocks: tuple[int, int] = (16, 16),
) -> tvm.IRModule:
    """Return a stage: a convolution of `size` x `size` pixels, a bias and ReLU.

    Parameters
    ----------
    inputs, outputs
        Channels.
    size, kernel, stride, groups
        Of the convolution; its padding is half the kernel.
    blocks
        Channel blocks of the input and of the output.
    """
    data = random_array(1, inputs, size, size)
    weight = random_array(outputs, inputs // groups, kernel, kernel)
    attrs = {"decnn.input_blocks": [blocks[0]], "decnn.output_blocks": [blocks[1]]}

    def body(builder: relax.BlockBuilder, x: Any, w: Any, bias: Any) -> Any:
        y = relax.op.nn.conv2d(x, w, strides=stride, padding=kernel // 2, groups=groups)
        return relax.op.nn.relu(builder.emit(relax.op.add(builder.emit(y), bias)))

    return stage_module([data], [weight, random_array(1, outputs, 1, 1)], body, attrs=attrs)


def dense(batch: int, features: int, outputs: int) -> tvm.IRModule:
    """Return a stage: a dense layer with a bias."""

    def body(builder: relax.BlockBuilder, x: Any, w: Any, bias: Any) -> Any:
        return relax.op.add(builder.emit(relax.op.matmul(x, w)), bias)

    weights = [random_array(features, outputs), random_array(outputs)]
    return stage_module([random_array(batch, features)], weights, body)


def assembly(mod: tvm.IRModule, target: tvm.target.Target, *, winograd: bool = False) -> str:
    """Return the assembly of the one layer of the stage `mod`."""
    lowered = lower_stages(mod, target, winograd=winograd)
    (layer,) = (func for _, func in lowered.functions_items() if is_layer(func))
    with target:
        scheduled = tvm.transform.Sequential([ScheduleKernels()])(tvm.IRModule({"layer": layer}))
    kernel = tvm.IRModule({"layer": scheduled["layer"].with_attr("global_symbol", "layer")})
    return str(tvm.compile(kernel, target=target).mod.inspect_source("s"))


ARM_CPUS = ("cortex-a72", "cortex-a76")


def arm_target(cpu: str) -> dict[str, Any]:
    """Return the target of an AArch64 core."""
    return {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": cpu, "mattr": ["+neon"]}


WINOGRAD = frozenset({"Winograd 3x3"})
"""Those of `MAIN_KERNELS` that are compiled with Winograd's method."""

MAIN_KERNELS: dict[str, Callable[[], tvm.IRModule]] = {
    "1x1": partial(convolution, 64, 256, 56, 1),
    "3x3": partial(convolution, 64, 64, 56, 3),
    "3x3, stride 2": partial(convolution, 128, 128, 56, 3, stride=2),
    "3x3, 4 groups": partial(convolution, 128, 128, 28, 3, groups=4),
    "3x3, 4 groups of 28": partial(convolution, 112, 112, 28, 3, groups=4, blocks=(14, 14)),
    "1x1 in blocks of 8": partial(convolution, 64, 64, 28, 1, blocks=(8, 8)),
    "3x3 in blocks of 8": partial(convolution, 64, 64, 28, 3, blocks=(8, 8)),
    "3x3 in blocks of 12": partial(convolution, 48, 48, 28, 3, blocks=(12, 12)),
    "7x7 stem": partial(convolution, 3, 64, 224, 7, stride=2, blocks=(1, 16)),
    "depthwise 3x3": partial(convolution, 96, 96, 56, 3, groups=96),
    "Winograd 3x3": partial(convolution, 64, 64, 56, 3),
    "dense": partial(dense, 1, 2048, 1000),
}
"""Stages whose inner loops are looked at."""
