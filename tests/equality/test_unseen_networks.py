# SPDX-License-Identifier: Apache-2.0
"""Small networks with what the zoo lacks, split over three devices, equal ONNX Runtime.

Ten or so channels over three devices leave padding in the shares; sizes are odd, so that axes can't
be mistaken for each other. Each network ends in a classifier unless it says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from decnn_tvm.errors import PartitionError
from decnn_tvm.frontend import load
from decnn_tvm.runtime.in_process import InProcessCluster
from decnn_tvm.testing.equality import all_reference_outputs, assert_logits_match
from decnn_tvm.testing.graph_builder import GraphBuilder, Tensor
from decnn_tvm.testing.split_execution import temporary_package

Body = Callable[[GraphBuilder, Tensor], Tensor]
BODIES: dict[str, Body] = {}


def body(build: Body) -> Body:
    BODIES[build.__name__] = build
    return build


def builder(name: str, batch: int = 1) -> GraphBuilder:
    return GraphBuilder(name, seed=7, batch=batch, opset=17)


def constant(net: GraphBuilder, value: object, dtype: str = "int64") -> str:
    return net.weight(f"constant{len(net._weights)}", np.asarray(value, dtype))


def squeeze_excite(net: GraphBuilder, x: Tensor, gate: str, **attrs: float) -> Tensor:
    y = net.relu(net.conv("reduce", net.global_average_pool(x), 4, 1, bias=True))
    y = net.node(gate, [net.conv("expand", y, x.channels, 1, bias=True).name], y.shape, **attrs)
    return net.node("Mul", [x.name, y.name], x.shape)


@body
def mobile_block(net: GraphBuilder, x: Tensor) -> Tensor:
    """MobileNetV3: hard-swish, a hard-sigmoid of a partial sum."""
    y = net.batch_norm("norm", net.conv("expand_block", x, 14, 1))
    y = net.node("HardSwish", [y.name], y.shape)
    y = net.node("HardSwish", [net.conv("depth", y, 14, 3, padding=1, groups=14).name], y.shape)
    return net.conv("project", squeeze_excite(net, y, "HardSigmoid", alpha=1 / 6), 10, 1)


@body
def depth_multiplier(net: GraphBuilder, x: Tensor) -> Tensor:
    y = net.conv("narrow", x, 7, 1, bias=True)
    y = net.relu(net.conv("depth", y, 14, 5, padding=2, groups=7))
    return net.relu(net.conv("grouped", y, 20, 3, padding=1, groups=2))


@body
def dilated_branches(net: GraphBuilder, x: Tensor) -> Tensor:
    """Branches of DeepLab: dilations, asymmetric windows, strides and pads."""
    weight = net.weight("dilated", net._normal((5, x.channels, 3, 3), 2.0))
    a = net.node("Conv", [x.name, weight], (5, 7, 7), dilations=[2, 2], pads=[2] * 4)
    weight = net.weight("wide", net._normal((6, x.channels, 1, 5), 2.0))
    b = net.node("Conv", [x.name, weight], (6, 7, 7), pads=[0, 1, 0, 3])
    return net.relu(net.concat([a, b, x]))


@body
def same_padding(net: GraphBuilder, x: Tensor) -> Tensor:
    """Pads computed by ONNX, more behind than before."""
    weight = net.weight("same", net._normal((10, x.channels, 4, 3), 2.0))
    attrs = {"strides": [2, 1], "auto_pad": "SAME_UPPER"}
    y = net.relu(net.node("Conv", [x.name, weight], (10, 4, 7), **attrs))
    return net.node("AveragePool", [y.name], (10, 2, 7), kernel_shape=[3, 2], **attrs)


@body
def upsampling(net: GraphBuilder, x: Tensor) -> Tensor:
    """A U-Net step: transposed convolution, bilinear resize, skip concatenation."""
    y = net.relu(net.conv("down", x, 9, 3, stride=2, padding=1))
    weight = net.weight("up", net._normal((9, 5, 3, 3), 1.0))
    a = net.node("ConvTranspose", [y.name, weight], (5, 7, 7), strides=[2, 2], pads=[1] * 4)
    sizes = constant(net, [1, 9, 7, 7])
    b = net.node("Resize", [y.name, "", "", sizes], (9, 7, 7), mode="linear")
    return net.relu(net.conv("join", net.concat([x, a, b]), 8, 3, padding=1))


@body
def normalisation_over_channels(net: GraphBuilder, x: Tensor) -> Tensor:
    """ConvNeXt: channels last, a layer norm, a dense layer per pixel."""
    y = net.node("Transpose", [x.name], (7, 7, x.channels), perm=[0, 2, 3, 1])
    scale, bias = (net.weight(n, net._around(c, x.channels)) for n, c in (("s", 1.0), ("b", 0.0)))
    y = net.node("LayerNormalization", [y.name, scale, bias], y.shape)
    y = net.node("MatMul", [y.name, net.weight("dense", net._normal((10, 12), 2.0))], (7, 7, 12))
    return net.relu(net.node("Transpose", [y.name], (12, 7, 7), perm=[0, 3, 1, 2]))


@body
def activations(net: GraphBuilder, x: Tensor) -> Tensor:
    slopes = net.weight("slopes", net._around(0.3, 14).reshape(14, 1, 1))
    y = net.conv("a", x, 14, 1, bias=True)
    y = net.node("PRelu", [y.name, slopes], y.shape)
    for kind in ("LeakyRelu", "Elu", "Softplus", "Tanh"):
        y = net.node(kind, [y.name], y.shape)
    return y


@body
def division(net: GraphBuilder, x: Tensor) -> Tensor:
    """Padding channels, divided by themselves, must not spread NaN."""
    y = net.relu(net.conv("a", x, 14, 1))
    return net.node("Div", [y.name, net.conv("b", x, 14, 1, bias=True, gain=0.01).name], y.shape)


@body
def spatial_attention(net: GraphBuilder, x: Tensor) -> Tensor:
    """A map of one channel, sharded over three devices, broadcast to all channels."""
    mask = net.node("Sigmoid", [net.conv("mask", x, 1, 3, padding=1).name], (1, 7, 7))
    y = net.node("Add", [x.name, mask.name], x.shape)
    y = net.conv("after", y, 11, 3, padding=1)
    return net.node("Mul", [mask.name, y.name], y.shape)


@body
def scalar_beside_partial_sum(net: GraphBuilder, x: Tensor) -> Tensor:
    """A scalar added to partial sums counts once, not once per device."""
    y = net.conv("narrow", net.relu(net.conv("wide", x, 48, 1)), 6, 3)
    y = net.node("Add", [y.name, constant(net, 2.0, "float32")], y.shape)
    return net.relu(y)


@body
def channel_selection(net: GraphBuilder, x: Tensor) -> Tensor:
    """Slices of channels alone, with a step, and of two axes; gathers; splits."""
    bounds = [constant(net, v) for v in ([1], [10], [1], [3])]
    a = net.relu(net.node("Slice", [x.name, *bounds], (3, 7, 7)))
    bounds = [constant(net, v) for v in ([2, 0], [8, 7], [1, 2])]
    b = net.relu(net.node("Slice", [x.name, *bounds], (6, 7, 7)))
    c = net.node("Gather", [x.name, constant(net, [3, 3, 0])], (3, 7, 7), axis=1)
    return net.relu(net.conv("join", net.concat([a, b, c]), 10, 3))


@body
def selection_alone_between_exchanges(net: GraphBuilder, x: Tensor) -> Tensor:
    """A stage that computes nothing: it only renames channels."""
    bounds = [constant(net, v) for v in ([1], [10], [1], [3])]
    return net.relu(net.conv("join", net.node("Slice", [x.name, *bounds], (3, 7, 7)), 10, 3))


@body
def changing_axes(net: GraphBuilder, x: Tensor) -> Tensor:
    """Self-attention and a mixer's transpose: the sharded axis moves."""
    q, k, v = (net.reshape(net.conv(name, x, 10, 1), (10, 49)) for name in "qkv")
    transposed = net.node("Transpose", [q.name], (49, 10), perm=[0, 2, 1])
    scores = net.node("MatMul", [transposed.name, k.name], (49, 49))
    scores = net.node("Softmax", [scores.name], scores.shape, axis=-1)
    y = net.node("MatMul", [v.name, scores.name], (10, 49))
    flipped = net.node("Transpose", [y.name], (49, 10), perm=[0, 2, 1])
    y = net.node("Add", [transposed.name, flipped.name], (49, 10))
    y = net.node("Transpose", [y.name], (10, 49), perm=[0, 2, 1])
    return net.add(net.reshape(y, (10, 7, 7)), x)


@body
def efficient_channel_attention(net: GraphBuilder, x: Tensor) -> Tensor:
    y = net.reshape(net.global_average_pool(x), (1, x.channels))
    weight = net.weight("along", net._normal((1, 1, 3), 1.0))
    y = net.node(
        "Sigmoid", [net.node("Conv", [y.name, weight], y.shape, pads=[1, 1]).name], y.shape
    )
    return net.node("Mul", [x.name, net.reshape(y, (x.channels, 1, 1)).name], x.shape)


@body
def shared_weights(net: GraphBuilder, x: Tensor) -> Tensor:
    weight = net.weight("shared", net._normal((10, 10, 3, 3), 1.0))
    y = net.relu(net.node("Conv", [x.name, weight], x.shape, pads=[1] * 4))
    z = net.node("Conv", [y.name, weight], x.shape, pads=[2] * 4, dilations=[2, 2])
    return net.node("Sum", [x.name, y.name, z.name], x.shape)


@body
def loop_nests(net: GraphBuilder, x: Tensor) -> Tensor:
    """What TVM imports as loops, not as an operator; an expansion."""
    y = net.node("CumSum", [x.name, constant(net, 2)], x.shape)
    z = net.node("Tile", [y.name, constant(net, [1, 2, 1, 1])], (20, 7, 7))
    scale = net.global_average_pool(z)
    scale = net.node("Expand", [scale.name, constant(net, [1, 20, 7, 7])], z.shape)
    return net.add(z, scale)


@body
def local_response_norm(net: GraphBuilder, x: Tensor) -> Tensor:
    y = net.relu(net.conv("a", x, 14, 3, groups=2))
    return net.node("LRN", [y.name], y.shape, size=5, alpha=0.1)


@body
def pixel_shuffle(net: GraphBuilder, x: Tensor) -> Tensor:
    y = net.conv("a", x, 20, 3)
    return net.node("DepthToSpace", [y.name], (5, 10, 10), blocksize=2, mode="CRD")


def split_runs(
    model: onnx.ModelProto, workers: int, wire: str = "float32"
) -> tuple[list[list[np.ndarray]], list[list[np.ndarray]]]:
    """Return all outputs of three runs, ours and the reference's."""
    network = load(model)
    random = np.random.default_rng(3)
    feeds = [
        {i.name: random.standard_normal(i.shape).astype(i.dtype) for i in network.inputs}
        for _ in range(3)
    ]
    with (
        temporary_package(network, workers=workers, wire=wire) as package,
        InProcessCluster(workers) as cluster,
        cluster.deploy(package) as session,
    ):
        results = [session.run(f if len(f) > 1 else next(iter(f.values()))) for f in feeds]
    ours = [list(r.values()) if isinstance(r, dict) else [r] for r in results]
    return ours, all_reference_outputs(model, feeds)


def assert_split_exactly(model: onnx.ModelProto, workers: int = 3) -> None:
    ours, reference = split_runs(model, workers)
    for mine, theirs in zip(zip(*ours, strict=True), zip(*reference, strict=True), strict=True):
        assert_logits_match(mine, theirs)


def classifier(name: str) -> onnx.ModelProto:
    net = builder(name)
    x = net.relu(net.conv("stem", net.input("input", 3, 7), 10, 3, padding=1, bias=True))
    y = net.flatten(BODIES[name](net, x))
    return net.model(net.linear("classifier", y, 5))


@pytest.mark.parametrize("name", BODIES)
def test_network_over_three_devices(name: str) -> None:
    assert_split_exactly(classifier(name))


@pytest.mark.parametrize("workers", [1, 2, 5, 8])
@pytest.mark.parametrize("name", ["mobile_block", "channel_selection"])
def test_network_over_other_numbers_of_devices(name: str, workers: int) -> None:
    assert_split_exactly(classifier(name), workers)


def test_a_sum_of_three_on_one_device() -> None:
    """The last convolution adds two tensors that its kernel has to add first."""
    assert_split_exactly(classifier("shared_weights"), 1)


def test_channels_last_flatten_and_a_batch() -> None:
    """What tf2onnx writes: channels last into the dense layer; two images, one channel."""
    net = builder("channels_last", batch=2)
    y = net.relu(net.conv("stem", net.input("input", 1, 7), 10, 3))
    y = net.node("Transpose", [y.name], (5, 5, 10), perm=[0, 2, 3, 1])
    y = net.relu(net.linear("hidden", net.flatten(y), 13))
    assert_split_exactly(net.model(net.linear("classifier", y, 5)))


def test_several_inputs_and_outputs() -> None:
    net = builder("several")
    a = net.relu(net.conv("a", net.input("left", 3, 7), 10, 3, padding=1))
    b = net.relu(net.conv("b", net.input("right", 1, 7), 4, 3, padding=1))
    net.input("unused", 1, 2)
    joined = net.relu(net.conv("join", net.concat([a, b]), 8, 3))
    scores = net.linear("classifier", net.flatten(net.global_average_pool(joined)), 5)
    assert_split_exactly(net.model(scores, a, joined, joined))


def test_a_constant_output_is_refused() -> None:
    net = builder("constant")
    x = net.conv("stem", net.input("input", 3, 7), 10, 3)
    model = net.model(x, Tensor(net.weight("one", np.ones((1, 3), "float32")), (3,)))
    with (
        pytest.raises(PartitionError, match="output1 is a constant"),
        temporary_package(load(model), workers=2),
    ):
        pass


def test_a_scalar_output_is_refused() -> None:
    net = builder("scalar")
    x = net.conv("stem", net.input("input", 3, 7), 10, 3)
    model = net.model(net.node("ReduceMean", [x.name], (), keepdims=0))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    with (
        pytest.raises(PartitionError, match="output is a scalar"),
        temporary_package(load(model), workers=2),
    ):
        pass


def test_half_precision_messages() -> None:
    """A gather of one axis, then a local cut of another: the message keeps its narrow type."""
    ours, reference = split_runs(classifier("changing_axes"), 3, "float16")
    for mine, theirs in zip(zip(*ours, strict=True), zip(*reference, strict=True), strict=True):
        assert_logits_match(mine, theirs, tolerance=2e-3)
