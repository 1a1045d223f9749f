# SPDX-License-Identifier: Apache-2.0
"""Depthwise convolutions, dense layers and pooling over generated shapes, against PyTorch."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvm import relax

from decnn_tvm.schedules.blocks import preferred_block
from decnn_tvm.testing.stages import random_array, run_stage, stage_module, to_blocks

F = torch.nn.functional
few = settings(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
small = st.integers(1, 3)


def check(data, weights, body, expected, in_block=1, out_block=1):
    attrs = {"decnn.input_blocks": [in_block], "decnn.output_blocks": [out_block]}
    mod = stage_module([data], weights, body, attrs=attrs if data.ndim == 4 else None)
    result = run_stage(mod, [to_blocks(data, in_block)], weights)
    reference = to_blocks(expected.numpy(), out_block)
    assert result.shape == reference.shape
    assert np.abs(result - reference).max() <= 1e-5 * np.abs(reference).max()


@few
@given(st.data())
def test_any_depthwise_convolution(data: st.DataObject) -> None:
    channels = data.draw(st.sampled_from([4, 7, 12, 16, 24, 28, 40]))
    kernel, strides, dilation = ((data.draw(small), data.draw(small)) for _ in range(3))
    padding = (data.draw(st.integers(0, 2)), data.draw(st.integers(0, 2)))
    size = [
        data.draw(st.integers(d * (k - 1) + 1, 19)) for k, d in zip(kernel, dilation, strict=True)
    ]
    x = random_array(data.draw(st.integers(1, 2)), channels, *size, seed=1)
    w, b = random_array(channels, 1, *kernel, seed=2), random_array(1, channels, 1, 1, seed=3)
    geometry = {"padding": padding, "dilation": dilation, "groups": channels}

    def body(builder, x, w, b):
        y = relax.op.nn.conv2d(x, w, strides=strides, **{**geometry, "padding": padding * 2})
        return relax.op.clip(builder.emit(relax.op.add(builder.emit(y), b)), 0, 6)

    tensors = [torch.from_numpy(a).double() for a in (x, w, b.ravel())]
    expected = F.conv2d(*tensors, stride=strides, **geometry).clip(0, 6)
    block = preferred_block(channels)
    check(x, [w, b], body, expected, block, block)


@few
@given(st.integers(1, 5), st.integers(1, 70), st.integers(1, 300))
def test_any_dense_layer(batch: int, features: int, outputs: int) -> None:
    x, w = random_array(batch, features, seed=1), random_array(features, outputs, seed=2)
    b = random_array(outputs, seed=3)

    def body(builder, x, w, b):
        y = builder.emit(relax.op.matmul(x, w))
        return relax.op.nn.relu(builder.emit(relax.op.add(y, b)))

    expected = torch.relu(torch.from_numpy(x.astype("float64") @ w.astype("float64") + b))
    check(x, [w, b], body, expected)


@few
@given(st.data())
def test_any_pooling(data: st.DataObject) -> None:
    kernel, strides = ((data.draw(small), data.draw(small)) for _ in range(2))
    padding = tuple(data.draw(st.integers(0, k // 2)) for k in kernel)
    size = [data.draw(st.integers(k, 17)) for k in kernel]
    block = data.draw(st.sampled_from([1, 12, 16]))
    x = random_array(data.draw(st.integers(1, 2)), 48, *size, seed=1)
    average, ceil = data.draw(st.booleans()), data.draw(st.booleans())
    options = {"strides": strides, "padding": padding * 2, "ceil_mode": ceil}
    if average:
        include = data.draw(st.booleans())
        expected = F.avg_pool2d(
            torch.from_numpy(x).double(), kernel, strides, padding, ceil, include
        )
        operator, options = relax.op.nn.avg_pool2d, {**options, "count_include_pad": include}
    else:
        expected = F.max_pool2d(
            torch.from_numpy(x).double(), kernel, strides, padding, ceil_mode=ceil
        )
        operator = relax.op.nn.max_pool2d
    check(x, [], lambda _, x: operator(x, kernel, **options), expected, block, block)
