# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="valid-type"
from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from decnn_tvm.passes import FoldWeightTransforms
from decnn_tvm.passes.weights import weight_values
from tests.modules import assert_close, drawn, network, run, with_values

WEIGHT, BIAS = drawn(4, 6), drawn(4)


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor((2, 6), "float32"),
        fc_weight: R.Tensor((4, 6), "float32"),
        fc_bias: R.Tensor((4,), "float32"),
    ) -> R.Tensor((2, 4), "float32"):
        with R.dataflow():
            w = R.permute_dims(fc_weight)
            b = R.reshape(fc_bias, R.shape([1, 4]))
            y = R.matmul(x, w)
            out = R.add(y, b)
            R.output(out)
        return out


@I.ir_module
class Expected:
    @R.function
    def main(
        x: R.Tensor((2, 6), "float32"),
        fc_weight: R.Tensor((6, 4), "float32"),
        fc_bias: R.Tensor((1, 4), "float32"),
    ) -> R.Tensor((2, 4), "float32"):
        with R.dataflow():
            y = R.matmul(x, fc_weight)
            out = R.add(y, fc_bias)
            R.output(out)
        return out


def test_transposed_weight_and_reshaped_bias():
    folded = FoldWeightTransforms()(with_values(Before, WEIGHT, BIAS))
    expected = with_values(Expected, np.ascontiguousarray(WEIGHT.T), BIAS[None])
    tvm.ir.assert_structural_equal(folded, expected)


def test_a_weight_that_is_read_both_ways_keeps_its_name_and_value():
    def body(emit, x, w):
        y = emit(relax.op.matmul(x, w))
        return relax.op.matmul(y, emit(relax.op.permute_dims(w)))

    mod = network(body, (2, 3), weights={"w": drawn(3, 5)})
    folded = FoldWeightTransforms()(mod)
    values = weight_values(folded["main"])
    np.testing.assert_array_equal(values["w"], drawn(3, 5))
    np.testing.assert_array_equal(values["w.1"], drawn(3, 5).T)
    x = drawn(2, 3)
    assert_close(run(folded, x)[0], x @ drawn(3, 5) @ drawn(3, 5).T)


def _chain(emit, w):
    w = emit(relax.op.multiply(w, relax.const(np.float32(0.5))))
    w = emit(relax.op.sqrt(emit(relax.op.add(w, w))))
    w = emit(relax.op.divide(emit(relax.op.negative(w)), relax.const(np.float32(3.0))))
    w = emit(relax.op.subtract(w, relax.const(np.float32(1.0))))
    return emit(relax.op.broadcast_to(emit(relax.op.expand_dims(w, 0)), (2, 3)))


def test_chains_of_operators_are_evaluated():
    value = np.abs(drawn(3))
    mod = network(lambda emit, x, w: relax.op.add(x, _chain(emit, w)), (2, 3), weights={"w": value})
    folded = FoldWeightTransforms()(mod)
    assert len(folded["main"].body.blocks[0].bindings) == 1
    assert_close(run(folded, drawn(2, 3))[0], drawn(2, 3) + (-np.sqrt(value) / 3 - 1))


@pytest.mark.parametrize("op", [relax.op.exp, relax.op.nn.relu])
def test_operators_on_data_and_unknown_ones_are_left_alone(op):
    mod = network(
        lambda emit, x, w: relax.op.add(emit(op(x)), emit(op(w))),
        (2, 3),
        weights={"w": drawn(2, 3)},
    )
    tvm.ir.assert_structural_equal(FoldWeightTransforms()(mod), mod)
