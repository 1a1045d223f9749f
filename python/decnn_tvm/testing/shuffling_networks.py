# SPDX-License-Identifier: Apache-2.0
"""ONNX builder of ShuffleNetV1, a network that comes with group convolutions and shuffles."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from decnn_tvm.testing.graph_builder import GraphBuilder, Tensor, scaled

# Output channels of stage 2 by number of groups: table 1 of Zhang et al., "ShuffleNet" (2017).
_STAGE2 = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
_STEM = 24


def shufflenet_v1(
    *,
    groups: int = 3,
    image_size: int = 224,
    classes: int = 1000,
    width: float = 1.0,
    blocks: Sequence[int] = (4, 8, 4),
    batch: int = 1,
    opset: int = 17,
    seed: int = 0,
) -> onnx.ModelProto:
    """Build ShuffleNetV1, Zhang et al. (2017), with its reshape-transpose-reshape shuffles.

    Parameters
    ----------
    groups : int
        Groups of the 1x1 convolutions.
    image_size, classes, batch : int
        The input is (batch, 3, image_size, image_size), the output (batch, classes).
    width : float
        Factor on all channels but the stem's 24, rounded to what groups and bottlenecks need.
    blocks : sequence of int
        Units of the three stages.
    opset, seed : int
        Version of the operator set; seed of the weights.
    """
    graph = GraphBuilder(f"shufflenet_v1_g{groups}", seed=seed, batch=batch, opset=opset)
    x = graph.input("input", 3, image_size)
    x = graph.conv("conv1.0", x, _STEM, 3, stride=2, padding=1, gain=1.0)
    x = graph.max_pool(graph.relu(graph.batch_norm("conv1.1", x)), 3, 2, 1)
    for stage, repeats in enumerate(blocks, start=2):
        channels = scaled(_STAGE2[groups] * 2 ** (stage - 2), width, 8 * groups)
        for index in range(repeats):
            first = 1 if stage == 2 and index == 0 else groups
            x = _unit(graph, f"stage{stage}.{index}", x, channels, first, groups, index == 0)
    x = graph.flatten(graph.global_average_pool(x))
    return graph.model(graph.linear("fc", x, classes))


def _unit(
    graph: GraphBuilder, name: str, x: Tensor, channels: int, first: int, groups: int, down: bool
) -> Tensor:
    y = graph.conv(f"{name}.conv1", x, channels // 4, 1, groups=first)
    y = graph.relu(graph.batch_norm(f"{name}.bn1", y))
    y = graph.channel_shuffle(y, groups)
    stride = 2 if down else 1
    y = graph.conv(f"{name}.conv2", y, y.channels, 3, stride=stride, padding=1, groups=y.channels)
    y = graph.batch_norm(f"{name}.bn2", y)
    outputs = channels - x.channels if down else channels
    y = graph.conv(f"{name}.conv3", y, outputs, 1, groups=groups, gain=1.0)
    y = graph.batch_norm(f"{name}.bn3", y, scale=1.0 if down else 0.5)
    joined = graph.concat([graph.average_pool(x, 3, 2, 1), y]) if down else graph.add(x, y)
    return graph.relu(joined)
