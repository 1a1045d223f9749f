# SPDX-License-Identifier: Apache-2.0
"""ONNX builders of networks that join channels: SqueezeNet 1.1, GoogLeNet and DenseNet-121.

Structure and weight names are torchvision's (GoogLeNet with batch norm, without auxiliary heads).
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from decnn_tvm.testing.graph_builder import GraphBuilder, Tensor, scaled

# Squeeze and expand channels at their index among the features; None is a pooling.
_FIRES: dict[int, tuple[int, int] | None] = {
    3: (16, 64),
    4: (16, 64),
    5: None,
    6: (32, 128),
    7: (32, 128),
    8: None,
    9: (48, 192),
    10: (48, 192),
    11: (64, 256),
    12: (64, 256),
}
# 1x1; 3x3 reduce, 3x3; "5x5" reduce, "5x5"; pool projection. Table 1 of Szegedy et al. (2014).
_INCEPTIONS = {
    "3": ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64)),
    "4": (
        (192, 96, 208, 16, 48, 64),
        (160, 112, 224, 24, 64, 64),
        (128, 128, 256, 24, 64, 64),
        (112, 144, 288, 32, 64, 64),
        (256, 160, 320, 32, 128, 128),
    ),
    "5": ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128)),
}


def squeezenet(
    *,
    image_size: int = 224,
    classes: int = 1000,
    width: float = 1.0,
    batch: int = 1,
    opset: int = 17,
    seed: int = 0,
) -> onnx.ModelProto:
    """Build SqueezeNet 1.1, Iandola et al. (2016).

    Parameters
    ----------
    image_size, classes, batch : int
        The input is (batch, 3, image_size, image_size), the output (batch, classes).
    width : float
        Factor on all channels, rounded to multiples of 8.
    opset, seed : int
        Version of the operator set; seed of the weights.
    """
    graph = GraphBuilder("squeezenet1_1", seed=seed, batch=batch, opset=opset)
    x = graph.input("input", 3, image_size)
    x = graph.conv("features.0", x, scaled(64, width), 3, stride=2, bias=True, gain=1.0)
    x = graph.max_pool(graph.relu(x), 3, 2, ceil=True)
    for index, fire in _FIRES.items():
        if fire is None:
            x = graph.max_pool(x, 3, 2, ceil=True)
        else:
            x = _fire(graph, f"features.{index}", x, *(scaled(c, width) for c in fire))
    # Without the ReLU that torchvision has here: it would zero half of random logits.
    x = graph.conv("classifier.1", x, classes, 1, bias=True, gain=1.0)
    return graph.model(graph.flatten(graph.global_average_pool(x)))


def _fire(graph: GraphBuilder, name: str, x: Tensor, squeeze: int, expand: int) -> Tensor:
    x = graph.relu(graph.conv(f"{name}.squeeze", x, squeeze, 1, bias=True))
    one = graph.conv(f"{name}.expand1x1", x, expand, 1, bias=True)
    three = graph.conv(f"{name}.expand3x3", x, expand, 3, padding=1, bias=True)
    return graph.concat([graph.relu(one), graph.relu(three)])


def googlenet(
    *,
    image_size: int = 224,
    classes: int = 1000,
    width: float = 1.0,
    blocks: Sequence[int] = (2, 5, 2),
    batch: int = 1,
    opset: int = 17,
    seed: int = 0,
) -> onnx.ModelProto:
    """Build GoogLeNet, Szegedy et al. (2014); `blocks` counts the inceptions of its three stages.

    The other parameters are those of `squeezenet`.
    """
    graph = GraphBuilder("googlenet", seed=seed, batch=batch, opset=opset)
    x = graph.input("input", 3, image_size)
    x = _cell(graph, "conv1", x, scaled(64, width), 7, stride=2, gain=1.0)
    x = graph.max_pool(x, 3, 2, ceil=True)
    x = _cell(graph, "conv2", x, scaled(64, width), 1)
    x = graph.max_pool(_cell(graph, "conv3", x, scaled(192, width), 3), 3, 2, ceil=True)
    for (stage, rows), count in zip(_INCEPTIONS.items(), blocks, strict=True):
        if stage != "3":
            x = graph.max_pool(x, 3 if stage == "4" else 2, 2, ceil=True)
        for letter, row in zip("abcde", rows[:count], strict=False):
            channels = [scaled(c, width) for c in row]
            x = _inception(graph, f"inception{stage}{letter}", x, channels)
    x = graph.flatten(graph.global_average_pool(x))
    return graph.model(graph.linear("fc", x, classes))


def _inception(graph: GraphBuilder, name: str, x: Tensor, channels: Sequence[int]) -> Tensor:
    one, reduce3, three, reduce5, five, projection = channels
    branches = [_cell(graph, f"{name}.branch1", x, one, 1)]
    y = _cell(graph, f"{name}.branch2.0", x, reduce3, 1)
    branches.append(_cell(graph, f"{name}.branch2.1", y, three, 3))
    # torchvision has 3x3 kernels where the paper has 5x5.
    y = _cell(graph, f"{name}.branch3.0", x, reduce5, 1)
    branches.append(_cell(graph, f"{name}.branch3.1", y, five, 3))
    branches.append(_cell(graph, f"{name}.branch4.1", graph.max_pool(x, 3, 1, 1), projection, 1))
    return graph.concat(branches)


def _cell(
    graph: GraphBuilder,
    name: str,
    x: Tensor,
    channels: int,
    kernel: int,
    *,
    stride: int = 1,
    gain: float = 2.0,
) -> Tensor:
    y = graph.conv(
        f"{name}.conv", x, channels, kernel, stride=stride, padding=kernel // 2, gain=gain
    )
    return graph.relu(graph.batch_norm(f"{name}.bn", y, epsilon=1e-3))


def densenet121(
    *,
    image_size: int = 224,
    classes: int = 1000,
    width: float = 1.0,
    blocks: Sequence[int] = (6, 12, 24, 16),
    batch: int = 1,
    opset: int = 17,
    seed: int = 0,
) -> onnx.ModelProto:
    """Build DenseNet-121, Huang et al. (2016); `blocks` counts the layers of each dense block.

    `width` scales the stem and the growth rate of 32. The other parameters are those of
    `squeezenet`.
    """
    graph = GraphBuilder("densenet121", seed=seed, batch=batch, opset=opset)
    x = graph.input("input", 3, image_size)
    x = graph.conv("features.conv0", x, scaled(64, width), 7, stride=2, padding=3, gain=1.0)
    x = graph.max_pool(graph.relu(graph.batch_norm("features.norm0", x)), 3, 2, 1)
    for block, layers in enumerate(blocks, start=1):
        name = f"features.denseblock{block}"
        for layer in range(1, layers + 1):
            x = _dense_layer(graph, f"{name}.denselayer{layer}", x, scaled(32, width))
        if block < len(blocks):
            x = _transition(graph, f"features.transition{block}", x)
    x = graph.relu(graph.batch_norm("features.norm5", x))
    x = graph.flatten(graph.global_average_pool(x))
    return graph.model(graph.linear("classifier", x, classes))


def _dense_layer(graph: GraphBuilder, name: str, x: Tensor, growth: int) -> Tensor:
    y = graph.relu(graph.batch_norm(f"{name}.norm1", x))
    y = graph.conv(f"{name}.conv1", y, 4 * growth, 1)
    y = graph.relu(graph.batch_norm(f"{name}.norm2", y))
    return graph.concat([x, graph.conv(f"{name}.conv2", y, growth, 3, padding=1)])


def _transition(graph: GraphBuilder, name: str, x: Tensor) -> Tensor:
    y = graph.relu(graph.batch_norm(f"{name}.norm", x))
    return graph.average_pool(graph.conv(f"{name}.conv", y, x.channels // 2, 1), 2, 2)
