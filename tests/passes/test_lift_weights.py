# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="valid-type"
from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx
from tvm.script import ir as I
from tvm.script import relax as R

from decnn_tvm.passes import BindWeights, LiftWeights
from decnn_tvm.passes.weights import WeightTable, unique_name, weight_values
from decnn_tvm.testing import zoo
from tests.modules import assert_close, drawn, network, run, with_values

KERNEL, BIAS = drawn(6, 3, 3, 3), drawn(1, 6, 1, 1)


@I.ir_module
class Lifted:
    @R.function
    def main(
        x: R.Tensor((1, 3, 5, 7), "float32"),
        conv2d_weight: R.Tensor((6, 3, 3, 3), "float32"),
        add_bias: R.Tensor((1, 6, 1, 1), "float32"),
    ) -> R.Tensor((1, 6, 3, 5), "float32"):
        with R.dataflow():
            y = R.nn.conv2d(x, conv2d_weight)
            z = R.add(y, add_bias)
            out = R.multiply(z, R.const(2.0, "float32"))
            R.output(out)
        return out


def _constant() -> tvm.IRModule:
    def body(emit, x):
        y = emit(relax.op.nn.conv2d(x, relax.const(KERNEL)))
        z = emit(relax.op.add(y, relax.const(BIAS)))
        return relax.op.multiply(z, relax.const(2.0, "float32"))

    mod = network(body, (1, 3, 5, 7))
    return tvm.IRModule({"main": mod["main"].without_attr("params").without_attr("num_input")})


def test_constants_become_named_weights_and_scalars_stay():
    expected = with_values(Lifted, KERNEL, BIAS)
    tvm.ir.assert_structural_equal(LiftWeights()(_constant()), expected)


def test_bind_is_the_reverse():
    tvm.ir.assert_structural_equal(
        BindWeights()(LiftWeights()(_constant()))["main"].without_attr("num_input"),
        _constant()["main"],
    )


def test_named_weights_and_modules_without_weights_are_left_alone():
    expected = with_values(Lifted, KERNEL, BIAS)
    tvm.ir.assert_structural_equal(LiftWeights()(expected), expected)
    plain = network(lambda emit, x: relax.op.nn.relu(x), (1, 2))
    bare = tvm.IRModule({"main": plain["main"].without_attr("params").without_attr("num_input")})
    tvm.ir.assert_structural_equal(LiftWeights()(bare), bare)
    tvm.ir.assert_structural_equal(BindWeights()(bare), bare)


def test_equal_names_are_numbered():
    def body(emit, x):
        y = emit(relax.op.nn.conv2d(x, relax.const(drawn(3, 3, 1, 1))))
        return relax.op.nn.conv2d(y, relax.const(drawn(2, 3, 1, 1)))

    lifted = LiftWeights()(network(body, (1, 3, 2, 2)))
    assert [*weight_values(lifted["main"])] == ["conv2d_weight", "conv2d_weight_1"]


@pytest.mark.parametrize("keep", [False, True])
def test_both_importer_forms_compute_the_same(keep):
    model = zoo.small("squeezenet", image_size=33)
    mod = from_onnx(model, keep_params_in_input=keep)
    lifted = LiftWeights()(mod)
    assert not _tensor_constants(lifted["main"])
    x = drawn(1, 3, 33, 33)
    bound = BindWeights()(from_onnx(model, keep_params_in_input=True))
    assert_close(run(lifted, x)[0], run(bound, x)[0])


def _tensor_constants(func):
    found = []
    relax.analysis.post_order_visit(
        func,
        lambda e: (
            found.append(e)
            if isinstance(e, tvm.ir.GenericConst)
            and e.value.numpy().ndim
            and e.value.dtype == "float32"
            else None
        ),
    )
    return found


def test_weight_table_renames_only_what_clashes():
    func = with_values(Lifted, KERNEL, BIAS)["main"]
    table = WeightTable(func)
    assert table.value(func.params[0]) is None
    np.testing.assert_array_equal(table.value(func.params[1]), KERNEL)
    second = table.add("conv2d_weight", 2 * KERNEL)
    np.testing.assert_array_equal(table.value(second), 2 * KERNEL)
    body = func.body.blocks[0].bindings[0].value
    replaced = relax.op.add(body, relax.op.nn.conv2d(func.params[0], second))
    rebuilt = table.rebuild(func.with_attr("kept", 1), relax.SeqExpr([], replaced))
    assert [*weight_values(rebuilt)] == ["conv2d_weight", "conv2d_weight.1"]
    assert unique_name("a", {"a", "a.1"}) == "a.2"
