# SPDX-License-Identifier: Apache-2.0
"""ONNX builders of plain chains: VGG-16-bn and AlexNet, weights named as in torchvision.

Both end in three dense layers on the flattened last feature map. torchvision pools that map to a
fixed size first, which changes nothing at 224x224; here smaller images give smaller dense layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from decnn_tvm.testing.graph_builder import GraphBuilder, Tensor, scaled

_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# Channels, kernel, stride, padding, index among the features, whether a pooling follows.
_ALEXNET = (
    (64, 11, 4, 2, 0, True),
    (192, 5, 1, 2, 3, True),
    (384, 3, 1, 1, 6, False),
    (256, 3, 1, 1, 8, False),
    (256, 3, 1, 1, 10, True),
)


def vgg16_bn(
    *,
    image_size: int = 224,
    classes: int = 1000,
    width: float = 1.0,
    hidden: int = 4096,
    stages: Sequence[Sequence[int]] = _VGG16,
    batch: int = 1,
    opset: int = 17,
    seed: int = 0,
) -> onnx.ModelProto:
    """Build VGG-16 with batch norm, Simonyan and Zisserman (2014).

    Parameters
    ----------
    image_size, classes, batch : int
        The input is (batch, 3, image_size, image_size), the output (batch, classes).
    width : float
        Factor on the channels of the convolutions, rounded to multiples of 8.
    hidden : int
        Features of the two hidden dense layers.
    stages : sequence of sequences of int
        Channels of the convolutions before each pooling.
    opset, seed : int
        Version of the operator set; seed of the weights.
    """
    graph = GraphBuilder("vgg16_bn", seed=seed, batch=batch, opset=opset)
    x = graph.input("input", 3, image_size)
    index = 0
    for stage in stages:
        for channels in stage:
            y = graph.conv(
                f"features.{index}",
                x,
                scaled(channels, width),
                3,
                padding=1,
                bias=True,
                gain=1.0 if index == 0 else 2.0,
            )
            x = graph.relu(graph.batch_norm(f"features.{index + 1}", y))
            index += 3
        x, index = graph.max_pool(x, 2, 2), index + 1
    return _classifier(graph, x, (0, 3, 6), hidden, classes)


def alexnet(
    *,
    image_size: int = 224,
    classes: int = 1000,
    width: float = 1.0,
    hidden: int = 4096,
    batch: int = 1,
    opset: int = 17,
    seed: int = 0,
) -> onnx.ModelProto:
    """Build the one-tower AlexNet, Krizhevsky (2014); parameters as of `vgg16_bn`.

    The smallest image is 63x63.
    """
    graph = GraphBuilder("alexnet", seed=seed, batch=batch, opset=opset)
    x = graph.input("input", 3, image_size)
    for channels, kernel, stride, padding, index, pool in _ALEXNET:
        y = graph.conv(
            f"features.{index}",
            x,
            scaled(channels, width),
            kernel,
            stride=stride,
            padding=padding,
            bias=True,
            gain=1.0 if index == 0 else 2.0,
        )
        x = graph.relu(y)
        x = graph.max_pool(x, 3, 2) if pool else x
    return _classifier(graph, x, (1, 4, 6), hidden, classes)


def _classifier(
    graph: GraphBuilder, x: Tensor, indices: tuple[int, int, int], hidden: int, classes: int
) -> onnx.ModelProto:
    first, second, last = (f"classifier.{index}" for index in indices)
    x = graph.relu(graph.linear(first, graph.flatten(x), hidden, gain=2.0))
    x = graph.relu(graph.linear(second, x, hidden, gain=2.0))
    return graph.model(graph.linear(last, x, classes))
