# SPDX-License-Identifier: Apache-2.0
"""Matrix products of all ranks, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from decnn_tvm.errors import CompileError
from decnn_tvm.lowering import lower_stages
from decnn_tvm.schedules.apply import ScheduleKernels
from decnn_tvm.targets import resolve_target
from decnn_tvm.testing.equality import all_reference_outputs
from decnn_tvm.testing.stages import Array, random_array, run_stage, stage_module

HOST = resolve_target("host").target
AVX2 = {"kind": "llvm", "mcpu": "haswell"}


def onnx_product(x: Array, others: list[Array], *, with_bias: bool) -> Array:
    """Return what ONNX Runtime makes of ``relu(x @ w + b)``, or of ``x @ y``, an input too."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"])]
    if with_bias:
        nodes += [
            helper.make_node("Add", ["a", "b"], ["c"]),
            helper.make_node("Relu", ["c"], ["d"]),
        ]
    values = dict(zip(["x", "w", "b"], [x, *others], strict=False))
    inputs = ["x"] if with_bias else ["x", "w"]
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, values[k].shape) for k in inputs],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values[k], k) for k in values if k not in inputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    ((result,),) = all_reference_outputs(model, [{k: values[k] for k in inputs}])
    return result


def kernels(mod: tvm.IRModule) -> set[str]:
    """Return the names of the stage's kernels, without those that pack weights."""
    lowered = lower_stages(mod, HOST)
    found: set[str] = set()

    def visit(expr: Any) -> None:
        if isinstance(expr, relax.Call) and isinstance(expr.op, tvm.ir.Op):
            if expr.op.name == "relax.call_tir":
                found.add(str(expr.args[0].name_hint))

    relax.analysis.post_order_visit(lowered["stage0"], visit)
    return found


def assert_near(ours: Array, reference: Array) -> None:
    assert ours.shape == reference.shape
    assert np.abs(ours - reference).max() <= 1e-5 * np.abs(reference).max()


@pytest.mark.parametrize("target", ["host", AVX2], ids=str)
@pytest.mark.parametrize(
    ("leading", "outputs"), [((1, 49), 64), ((2, 3, 5), 40), ((6, 1), 130), ((4,), 72), ((), 48)]
)
def test_a_dense_layer_of_any_rank_is_packed(
    leading: tuple[int, ...], outputs: int, target: Any
) -> None:
    x, w, b = random_array(*leading, 64), random_array(64, outputs, seed=1), random_array(outputs)

    def body(builder: Any, x: Any, w: Any, b: Any) -> Any:
        y = builder.emit(relax.op.matmul(x, w))
        return relax.op.nn.relu(builder.emit(relax.op.add(y, b)))

    mod = stage_module([x], [w, b], body)
    assert any("dense" in name for name in kernels(mod))
    assert_near(run_stage(mod, [x], [w, b], target=target), onnx_product(x, [w, b], with_bias=True))


def test_bias_and_activation_join_a_dense_layer_of_three_axes() -> None:
    x, w, b = random_array(1, 49, 64), random_array(64, 40), random_array(40)

    def body(builder: Any, x: Any, w: Any, b: Any) -> Any:
        y = builder.emit(relax.op.matmul(x, w))
        return relax.op.nn.relu(builder.emit(relax.op.add(y, b)))

    names = kernels(stage_module([x], [w, b], body)) - {"reshape"}
    assert names == {"fused_dense_add_relu"}


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((2, 5, 16), (2, 16, 7)),
        ((2, 3, 5, 16), (3, 16, 20)),
        ((1, 3, 5, 16), (2, 1, 16, 4)),
        ((5, 16), (3, 16, 7)),
        ((16,), (3, 16, 7)),
        ((3, 5, 16), (16,)),
        ((16,), (16,)),
        ((5, 16), (16, 7)),
    ],
)
def test_products_of_two_activations(first: tuple[int, ...], second: tuple[int, ...]) -> None:
    x, y = random_array(*first), random_array(*second, seed=1)
    mod = stage_module([x, y], [], lambda _, x, y: relax.op.matmul(x, y))
    assert_near(run_stage(mod, [x, y], []), onnx_product(x, [y], with_bias=False))


def test_a_product_that_our_lowering_left_alone_is_not_shipped() -> None:
    x, w = random_array(1, 49, 64), random_array(64, 40)
    mod = stage_module([x], [w], lambda _, x, w: relax.op.matmul(x, w))
    mod = relax.transform.LegalizeOps()(mod)
    with HOST, pytest.raises(CompileError, match="no schedule for the layer 'matmul'"):
        ScheduleKernels()(mod)
