# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from decnn_tvm.channel_histogram import ChannelHistogram, headroom_limits
from decnn_tvm.decoupling import decouple
from decnn_tvm.errors import TrainingError
from decnn_tvm.frontend import load
from decnn_tvm.network import Network
from decnn_tvm.passes.dataflow_graph import op_name, read_graph
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import random_inputs
from decnn_tvm.testing.split_execution import split_outputs, temporary_package
from decnn_tvm.training import ImageBatches, Recipe, calibrate_wires, from_torch, to_torch, train
from decnn_tvm.training.exchanges import exchange_bytes, exchange_points
from decnn_tvm.training.wire_rounding import WireRounding, wire_roundings


def int8(x: np.ndarray, limit: np.ndarray, unsigned: bool) -> np.ndarray:
    levels = 255 if unsigned else 127
    scale = (limit / levels).reshape(1, -1, 1, 1)
    return np.clip(np.rint(x / scale), 0 if unsigned else -levels, levels) * scale


@pytest.mark.parametrize("unsigned", [False, True])
def test_rounding_to_8_bits(unsigned: bool) -> None:
    x = np.random.default_rng(0).standard_normal((4, 3, 5, 5)).astype("float32")
    x *= np.array([0.01, 1.0, 100.0], "float32").reshape(1, 3, 1, 1)
    x = np.abs(x) if unsigned else x
    seen, other = x[:2], 2 * x[2:]
    rounding = WireRounding("int8", 3, signed=not unsigned).eval()
    calibrate_wires(rounding, torch.from_numpy(seen))
    limit = 1.5 * np.abs(seen).max((0, 2, 3))
    found = rounding(torch.from_numpy(other)).detach().numpy()
    expected = int8(other, limit, unsigned)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(other).max()
    assert (np.abs(other) > limit.reshape(1, 3, 1, 1)).any()  # something was clipped


def test_gradients_pass_the_rounding_and_stop_at_the_clip() -> None:
    rounding = WireRounding("int8", 1).eval()
    calibrate_wires(rounding, torch.tensor([-0.8, 0.8]).reshape(1, 1, 1, 2))
    x = torch.tensor([0.3, -0.9, 1.5, -7.0]).reshape(1, 1, 1, 4).requires_grad_()
    rounding(x).sum().backward()
    assert x.grad is not None and x.grad.flatten().tolist() == [1.0, 1.0, 0.0, 0.0]
    half = WireRounding("float16", 1)
    y = torch.tensor([1.0 + 2**-12, 1e6]).requires_grad_()
    found = half(y.reshape(1, 1, 1, 2))
    assert found.flatten().tolist() == [1.0, 65504.0]
    found.sum().backward()
    assert y.grad is not None and y.grad.tolist() == [1.0, 0.0]
    with pytest.raises(TrainingError, match="wire 'int4'"):
        WireRounding("int4", 1)  # type: ignore[arg-type]


def test_limits_follow_the_batches_of_a_training() -> None:
    rounding = WireRounding("int8", 1).train()
    for value in (1.0, 3.0):
        rounding(torch.full((1, 1, 2, 2), value))
    assert float(rounding.largest) == pytest.approx(1.0 + 0.1 * 2.0)


def test_exchanges_are_at_the_shuffles() -> None:
    net = decouple(load(zoo.small("resnet18")), multiple=16)
    graph = read_graph(net.function)
    points = exchange_points(net)
    assert list(points.values()) == [(1, False)] * 3
    for var in points:  # the end of a shuffle: reshape, transpose, reshape
        names = []
        for _ in range(4):
            names.append(op_name(graph.values[var]))
            (var,) = graph.data[var]
        assert names == ["relax.reshape", "relax.permute_dims", "relax.reshape", "relax.nn.relu"]
    dense = load(zoo.small("resnet18"))
    assert exchange_points(dense) == {} and len(exchange_points(dense, groups=2)) >= 5


def test_bytes_are_those_of_the_shuffles_and_the_classifier() -> None:
    net = decouple(load(zoo.small("resnet18")), multiple=16)
    shuffled = [(32, 16), (64, 8), (128, 4)]  # channels and size after layers 1, 2 and 3
    elements = sum(c * s * s * 3 // 4 for c, s in shuffled)
    sent = exchange_bytes(net)
    assert sent["float32"] - sent["int8"] == 3 * elements
    assert sent["float16"] == sent["float32"] - 2 * elements
    assert set(exchange_bytes(load(zoo.small("resnet18"))).values()) == {0}


def test_a_float16_wire_is_what_the_compiled_network_has() -> None:
    net = decouple(load(zoo.small("resnet18")), multiple=16, weights="fresh")
    inputs = random_inputs(net.inputs[0].shape)
    module, plain = to_torch(net, wire="float16"), to_torch(net)
    assert len(wire_roundings(module)) == 3
    with temporary_package(net, wire="float16") as package:
        compiled = split_outputs(package, inputs, (1, 1, 1, 1))
    for x, theirs in zip(inputs, compiled, strict=True):
        with torch.no_grad():
            ours, exact = (m(torch.from_numpy(x)).numpy() for m in (module, plain))
        assert np.abs(ours - theirs).max() < 0.3 * np.abs(ours - exact).max()


def test_an_int8_wire_is_what_the_calibrated_network_has() -> None:
    """The same images give both the same ranges, so that both round alike."""
    net = decouple(load(zoo.small("resnet18")), multiple=16, weights="fresh")
    images = random_inputs(net.inputs[0].shape, 8, seed=3)
    inputs = random_inputs(net.inputs[0].shape)
    module, plain = to_torch(net, wire="int8"), to_torch(net)
    calibrate_wires(module, torch.from_numpy(np.concatenate(images)))
    with temporary_package(net, wire="int8", calibration=images) as package:
        compiled = split_outputs(package, inputs, (1, 1, 1, 1))
    for x, theirs in zip(inputs, compiled, strict=True):
        with torch.no_grad():
            ours, exact = (m(torch.from_numpy(x)).numpy() for m in (module, plain))
        assert np.abs(ours - theirs).max() < 0.2 * np.abs(ours - exact).max()


def test_channels_that_were_always_zero_get_the_range_of_the_others() -> None:
    histogram = ChannelHistogram(3)
    values = np.array([[0.0, 0.0], [1.0, 3.0], [2.0, 0.5]])
    histogram.add(values)
    rounding = WireRounding("int8", 3, axis=0, signed=False).eval()
    calibrate_wires(rounding, torch.from_numpy(values), batch=3)
    limits = histogram.limits("headroom", 255)
    assert limits.tolist() == [4.5, 4.5, 3.0]
    found = headroom_limits(rounding.largest)
    np.testing.assert_array_equal(found, limits)


def test_training_with_wires_and_its_weights(
    grouped: Network, batches: ImageBatches, tmp_path: Path
) -> None:
    module = to_torch(grouped, wire="int8")
    calibrate_wires(module, batches.calibration(64))
    recipe = Recipe(epochs=6, learning_rate=0.1, wire="int8")
    history = train(module, batches, recipe, tmp_path)
    assert history[-1].accuracy > 0.8
    assert all(float(part.largest.min()) > 0 for part in wire_roundings(module))
    assert from_torch(grouped, module).groups == 4


def test_a_float16_wire_stays_finite_where_training_is_in_bfloat16() -> None:
    values = torch.tensor([1e6, -1e6, 3.0], dtype=torch.bfloat16)
    found = WireRounding("float16", 3)(values)
    assert found.dtype == torch.bfloat16
    assert found.tolist() == [65536.0, -65536.0, 3.0]  # bfloat16 has no number nearer to 65504
