# SPDX-License-Identifier: Apache-2.0
"""Estimates against what the compiler makes of the same stages."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from tvm import relax

from decnn_tvm.compiler import split_network
from decnn_tvm.frontend import load
from decnn_tvm.lowering import lower_stages
from decnn_tvm.passes.split_stages import plan_of
from decnn_tvm.pipeline import preparation_passes
from decnn_tvm.planning.layer_costs import KERNEL_CYCLES, LayerCost, layer_costs
from decnn_tvm.schedules.register_tiles import (
    choose_tile,
    convolution_problem,
    cycles,
    first_read_cycles,
)
from decnn_tvm.targets import resolve_target
from decnn_tvm.testing import zoo

TARGETS = ("aws/cpu/c5.large", "raspberry-pi/4b-aarch64", {"kind": "llvm", "mcpu": "haswell"})
KINDS = {
    "conv2d_winograd": "winograd",
    "depthwise_conv2d": "depthwise",
    "conv2d": "conv2d",
    "dense": "dense",
}
"""By the beginning of a kernel's name, the longest first."""


def stage_of(name: str, folder: Path) -> tvm.IRModule:
    """Return a network as one stage."""
    onnx.save(zoo.small(name), folder / "model.onnx")
    network = load(folder / "model.onnx", name=name)
    module = tvm.transform.Sequential(preparation_passes())(network.module)
    network = type(network)(name, module)
    return split_network(network, None, None, False, "float32", strategy="single")[1]


@pytest.mark.parametrize("target", TARGETS, ids=str)
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "vgg16_bn"])
def test_layers_are_computed_and_packed_as_estimated(
    name: str, target: str | dict[str, str], tmp_path: Path
) -> None:
    module, own = stage_of(name, tmp_path), resolve_target(target).target
    (stage,) = plan_of(module).stages
    costs = layer_costs(module[stage.function], own, winograd=True)
    module = module.without_attr("decnn.weights").without_attr("decnn.plan")
    lowered = lower_stages(module, own, winograd=True)
    expected = Counter(cost.kind for cost in costs if cost.kind != "other")
    assert kernels(lowered[stage.function]) == expected
    packed = tensor_bytes(lowered[f"{stage.function}_transform_params"].ret_ty)
    estimated = sum(cost.weight_bytes for cost in costs)
    # Biases and what is left unpacked come on top.
    assert estimated <= packed < 1.05 * estimated + 4096


def test_input_that_stays_in_the_cache_is_read_once() -> None:
    inputs, outputs, size = 96, 192, 112
    problem = convolution_problem(
        pixels=(size, size),
        blocks=outputs // 16,
        lanes=16,
        steps=inputs,
        source=inputs * size * size,
        copied=False,
        vector_lanes=16,
        registers=32,
        chunks=inputs // 16,
    )
    tile = choose_tile(problem)
    once, again = (cycles(problem, tile, keeps_input=kept) for kept in (True, False))
    assert once < again
    expected = once + first_read_cycles(4 * inputs * outputs) + KERNEL_CYCLES
    assert convolution(size, inputs, outputs).cycles == pytest.approx(expected)


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        ((1, 49, 64), (64, 40), "dense"),
        ((2, 49, 64), (2, 64, 49), "other"),
        ((49, 64), (64,), "other"),
    ],
)
def test_products_are_packed_where_the_second_operand_is_a_matrix(
    first: tuple[int, ...], second: tuple[int, ...], kind: str
) -> None:
    cost = cost_of(relax.op.matmul, first, second)
    assert cost.kind == kind
    assert (cost.weight_bytes > 0) == (kind == "dense")


def convolution(size: int, inputs: int, outputs: int) -> LayerCost:
    return cost_of(relax.op.nn.conv2d, (1, inputs, size, size), (outputs, inputs, 1, 1))


def cost_of(
    operator: Callable[..., relax.Expr], first: tuple[int, ...], second: tuple[int, ...]
) -> LayerCost:
    x = relax.Var("x", relax.TensorType(first, "float32"))
    w = relax.Var("w", relax.TensorType(second, "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, w]):
        with builder.dataflow():
            out = builder.emit_output(operator(x, w))
        builder.emit_func_output(out)
    target = resolve_target(TARGETS[0]).target
    (cost,) = layer_costs(builder.get()["main"], target, winograd=False)
    return cost


def kernels(function: relax.Function) -> Counter[str]:
    """Return how often kernels of each kind are called."""
    found: Counter[str] = Counter()

    def visit(expr: relax.Expr) -> None:
        if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
            name = str(expr.op.name) == "relax.call_tir" and expr.args[0].name_hint
            match = re.match(rf"(?:fused_)?({'|'.join(KINDS)})", name or "")
            if match is not None:
                found[KINDS[match[1]]] += 1

    relax.analysis.post_order_visit(function, visit)
    return found


def tensor_bytes(kind: relax.Type) -> int:
    if isinstance(kind, relax.TupleType):
        return sum(map(tensor_bytes, kind.fields))
    return math.prod(int(extent) for extent in kind.shape) * np.dtype(str(kind.dtype)).itemsize
