# SPDX-License-Identifier: Apache-2.0
"""ONNX builders of networks with residual sums: ResNet and MobileNetV2, named as in torchvision."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from decnn_tvm.testing.graph_builder import GraphBuilder, Tensor, scaled

_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
# Expansion, channels, repeats, stride: table 2 of Sandler et al., "MobileNetV2" (2018).
_INVERTED = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_BRANCH_SCALE = 0.5  # of the last batch norm of a residual branch: keeps long sums bounded


def resnet(
    depth: int = 50,
    *,
    image_size: int = 224,
    classes: int = 1000,
    width: float = 1.0,
    blocks: Sequence[int] | None = None,
    batch: int = 1,
    opset: int = 17,
    seed: int = 0,
) -> onnx.ModelProto:
    """Build ResNet-18, 34 or 50 (stride on the 3x3), He et al. (2015).

    Parameters
    ----------
    depth : int
        18, 34 or 50: chooses basic or bottleneck blocks and the default `blocks`.
    image_size, classes, batch : int
        The input is (batch, 3, image_size, image_size), the output (batch, classes).
    width : float
        Factor on all channels, rounded to multiples of 8.
    blocks : sequence of int, optional
        Blocks of each stage.
    opset, seed : int
        Version of the operator set; seed of the weights.
    """
    graph = GraphBuilder(f"resnet{depth}", seed=seed, batch=batch, opset=opset)
    x = graph.input("input", 3, image_size)
    x = graph.conv("conv1", x, scaled(64, width), 7, stride=2, padding=3, gain=1.0)
    x = graph.max_pool(graph.relu(graph.batch_norm("bn1", x)), 3, 2, 1)
    block = _bottleneck if depth >= 50 else _basic
    for stage, repeats in enumerate(blocks or _BLOCKS[depth]):
        for index in range(repeats):
            stride = 2 if stage > 0 and index == 0 else 1
            x = block(graph, f"layer{stage + 1}.{index}", x, scaled(64 * 2**stage, width), stride)
    x = graph.flatten(graph.global_average_pool(x))
    return graph.model(graph.linear("fc", x, classes))


def cifar_resnet(
    depth: int = 20,
    *,
    image_size: int = 32,
    classes: int = 10,
    width: float = 1.0,
    batch: int = 1,
    opset: int = 17,
    seed: int = 0,
) -> onnx.ModelProto:
    """Build a ResNet for small images: a 3x3 stem, no pooling before the mean.

    Depth 20 is that of He et al. (2015), section 4.2: three stages of three blocks, 16, 32 and 64
    channels; here with convolutions as shortcuts where the size changes. Depth 18 has the stages of
    ResNet-18, 64 to 512 channels. The other parameters are those of `resnet`.
    """
    blocks, first = {18: ((2, 2, 2, 2), 64), 20: ((3, 3, 3), 16)}[depth]
    graph = GraphBuilder(f"resnet{depth}_cifar", seed=seed, batch=batch, opset=opset)
    x = graph.input("input", 3, image_size)
    x = graph.conv("conv1", x, scaled(first, width), 3, padding=1, gain=1.0)
    x = graph.relu(graph.batch_norm("bn1", x))
    for stage, repeats in enumerate(blocks):
        for index in range(repeats):
            stride = 2 if stage > 0 and index == 0 else 1
            channels = scaled(first * 2**stage, width)
            x = _basic(graph, f"layer{stage + 1}.{index}", x, channels, stride)
    x = graph.flatten(graph.global_average_pool(x))
    return graph.model(graph.linear("fc", x, classes))


def _basic(graph: GraphBuilder, name: str, x: Tensor, channels: int, stride: int) -> Tensor:
    y = graph.conv(f"{name}.conv1", x, channels, 3, stride=stride, padding=1)
    y = graph.relu(graph.batch_norm(f"{name}.bn1", y))
    y = graph.conv(f"{name}.conv2", y, channels, 3, padding=1)
    y = graph.batch_norm(f"{name}.bn2", y, scale=_BRANCH_SCALE)
    return graph.relu(graph.add(y, _shortcut(graph, name, x, channels, stride)))


def _bottleneck(graph: GraphBuilder, name: str, x: Tensor, channels: int, stride: int) -> Tensor:
    y = graph.relu(graph.batch_norm(f"{name}.bn1", graph.conv(f"{name}.conv1", x, channels, 1)))
    y = graph.conv(f"{name}.conv2", y, channels, 3, stride=stride, padding=1)
    y = graph.relu(graph.batch_norm(f"{name}.bn2", y))
    y = graph.conv(f"{name}.conv3", y, 4 * channels, 1)
    y = graph.batch_norm(f"{name}.bn3", y, scale=_BRANCH_SCALE)
    return graph.relu(graph.add(y, _shortcut(graph, name, x, 4 * channels, stride)))


def _shortcut(graph: GraphBuilder, name: str, x: Tensor, channels: int, stride: int) -> Tensor:
    if stride == 1 and x.channels == channels:
        return x
    y = graph.conv(f"{name}.downsample.0", x, channels, 1, stride=stride)
    return graph.batch_norm(f"{name}.downsample.1", y)


def mobilenet_v2(
    *,
    image_size: int = 224,
    classes: int = 1000,
    width: float = 1.0,
    repeats: Sequence[int] | None = None,
    batch: int = 1,
    opset: int = 17,
    seed: int = 0,
) -> onnx.ModelProto:
    """Build MobileNetV2, Sandler et al. (2018); `repeats` are the blocks of its seven stages.

    The other parameters are those of `resnet`.
    """
    graph = GraphBuilder("mobilenet_v2", seed=seed, batch=batch, opset=opset)
    x = graph.input("input", 3, image_size)
    x = _conv6(graph, "features.0", x, scaled(32, width), 3, stride=2, gain=1.0)
    index = 1
    for row, (expansion, channels, default, first_stride) in enumerate(_INVERTED):
        for repeat in range(default if repeats is None else repeats[row]):
            stride = first_stride if repeat == 0 else 1
            name = f"features.{index}.conv"
            x = _inverted(graph, name, x, scaled(channels, width), expansion, stride)
            index += 1
    x = _conv6(graph, f"features.{index}", x, scaled(1280, max(1.0, width)), 1, gain=1.0)
    x = graph.flatten(graph.global_average_pool(x))
    return graph.model(graph.linear("classifier.1", x, classes))


def _inverted(
    graph: GraphBuilder, name: str, x: Tensor, channels: int, expansion: int, stride: int
) -> Tensor:
    y, part, hidden = x, 0, x.channels * expansion
    if expansion != 1:
        y, part = _conv6(graph, f"{name}.0", y, hidden, 1, gain=1.0), 1
    y = _conv6(graph, f"{name}.{part}", y, hidden, 3, stride=stride, groups=hidden)
    y = graph.conv(f"{name}.{part + 1}", y, channels, 1)
    y = graph.batch_norm(f"{name}.{part + 2}", y)
    return graph.add(x, y) if stride == 1 and x.channels == channels else y


def _conv6(
    graph: GraphBuilder,
    name: str,
    x: Tensor,
    channels: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    gain: float = 2.0,
) -> Tensor:
    y = graph.conv(
        f"{name}.0",
        x,
        channels,
        kernel,
        stride=stride,
        padding=kernel // 2,
        groups=groups,
        gain=gain,
    )
    return graph.relu6(graph.batch_norm(f"{name}.1", y))
