# SPDX-License-Identifier: Apache-2.0
# mypy: disable-error-code="valid-type"
from __future__ import annotations

import numpy as np
import pytest
import torch
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R

from decnn_tvm.passes import FoldBatchNorm
from decnn_tvm.passes.weights import weight_values
from tests.modules import assert_close, drawn, network, run, with_values

CHANNELS = 6


def _norm(channels=CHANNELS, seed=1):
    return {
        "gamma": drawn(channels, seed=seed) + 1,
        "beta": drawn(channels, seed=seed + 1),
        "mean": drawn(channels, seed=seed + 2),
        "variance": np.abs(drawn(channels, seed=seed + 3)) + 0.5,
    }


@I.ir_module
class Before:
    @R.function
    def main(
        x: R.Tensor((1, 3, 5, 5), "float32"),
        w: R.Tensor((6, 3, 3, 3), "float32"),
        gamma: R.Tensor((6,), "float32"),
        beta: R.Tensor((6,), "float32"),
        mean: R.Tensor((6,), "float32"),
        variance: R.Tensor((6,), "float32"),
    ) -> R.Tensor((1, 6, 3, 3), "float32"):
        with R.dataflow():
            y = R.nn.conv2d(x, w)
            norm = R.nn.batch_norm(
                y, gamma, beta, mean, variance, axis=1, epsilon=0.01, training=False
            )
            z = norm[0]
            out = R.nn.relu(z)
            R.output(out)
        return out


@I.ir_module
class Expected:
    @R.function
    def main(
        x: R.Tensor((1, 3, 5, 5), "float32"),
        w: R.Tensor((6, 3, 3, 3), "float32"),
        beta: R.Tensor((1, 6, 1, 1), "float32"),
    ) -> R.Tensor((1, 6, 3, 3), "float32"):
        with R.dataflow():
            y = R.nn.conv2d(x, w)
            z = R.add(y, beta)
            out = R.nn.relu(z)
            R.output(out)
        return out


def test_norm_after_a_convolution_is_a_bias():
    w, norm = drawn(6, 3, 3, 3), _norm()
    folded = FoldBatchNorm()(with_values(Before, w, *norm.values()))
    values = weight_values(folded["main"])
    expected = with_values(Expected, values["w"], values["beta"])
    tvm.ir.assert_structural_equal(folded, expected)
    scale = norm["gamma"] / np.sqrt(norm["variance"] + 0.01)
    assert_close(values["w"], w * scale[:, None, None, None], 1e-6)


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize(("stride", "bias"), [(1, False), (2, True), (3, False)])
def test_equal_to_torch(groups, stride, bias):
    weights = {"w": drawn(CHANNELS, 6 // groups, 3, 3), **_norm()}
    if bias:
        weights["b"] = drawn(1, CHANNELS, 1, 1)

    def body(emit, x, w, gamma, beta, mean, variance, b=None):
        y = emit(relax.op.nn.conv2d(x, w, stride, 1, groups=groups))
        y = emit(relax.op.add(y, b)) if bias else y
        norm = emit(relax.op.nn.batch_norm(y, gamma, beta, mean, variance, axis=1, training=False))
        return norm[0]

    mod = network(body, (2, 6, 9, 7), weights=weights)
    folded = FoldBatchNorm()(mod)
    assert "batch_norm" not in str(folded)
    assert [*weight_values(folded["main"])] == ["w", "beta"]
    x = drawn(2, 6, 9, 7)
    t = {name: torch.from_numpy(value) for name, value in weights.items()}
    reference = torch.nn.functional.batch_norm(
        torch.conv2d(
            torch.from_numpy(x),
            t["w"],
            t["b"].flatten() if bias else None,
            stride=stride,
            padding=1,
            groups=groups,
        ),
        t["mean"],
        t["variance"],
        t["gamma"],
        t["beta"],
    )
    assert_close(run(folded, x)[0], reference.numpy())


def _apply(emit, y, norm):
    return emit(emit(relax.op.nn.batch_norm(y, *norm, axis=1, training=False))[0])


@pytest.mark.parametrize("case", ["no convolution", "two readers", "bias shared", "another axis"])
def test_norm_elsewhere_becomes_a_scale_and_a_shift(case):
    weights = {"w": drawn(6, 6, 1, 1), **_norm()}

    def body(emit, x, w, **norm):
        y = emit(relax.op.nn.conv2d(x, w))
        if case == "no convolution":
            return relax.op.add(_apply(emit, emit(relax.op.nn.relu(y)), norm.values()), x)
        if case == "another axis":
            moved = emit(relax.op.permute_dims(y, [0, 2, 3, 1]))
            return emit(relax.op.nn.batch_norm(moved, *norm.values(), axis=3, training=False))[0]
        if case == "bias shared":
            y = emit(relax.op.add(y, relax.const(drawn(1, 6, 4, 4))))
        return relax.op.add(_apply(emit, y, norm.values()), y)

    mod = network(body, (1, 6, 4, 4), weights=weights)
    folded = FoldBatchNorm()(mod)
    assert "batch_norm" not in str(folded) and "multiply" in str(folded)
    np.testing.assert_array_equal(weight_values(folded["main"])["w"], weights["w"])
    x = drawn(1, 6, 4, 4)
    assert_close(run(folded, x)[0], run(mod, x)[0])


@pytest.mark.parametrize("training", [False, True])
def test_computed_statistics_are_left_alone(training):
    def body(emit, x, w, gamma, beta, mean, variance):
        y = emit(relax.op.nn.conv2d(x, w))
        computed = emit(relax.op.mean(y, [0, 2, 3]))
        used = mean if training else computed
        norm = relax.op.nn.batch_norm(y, gamma, beta, used, variance, axis=1, training=training)
        return emit(norm)[0]

    mod = network(body, (1, 6, 4, 4), weights={"w": drawn(6, 6, 1, 1), **_norm()})
    folded = FoldBatchNorm()(mod)
    assert "batch_norm" in str(folded)
    assert_close(run(folded, drawn(1, 6, 4, 4))[0], run(mod, drawn(1, 6, 4, 4))[0])
