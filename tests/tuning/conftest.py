# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import onnx
import pytest

from decnn_tvm.frontend import load
from decnn_tvm.network import Network
from decnn_tvm.testing.graph_builder import GraphBuilder


@pytest.fixture(scope="session")
def model() -> onnx.ModelProto:
    """Three distinct layers, one of them twice."""
    graph = GraphBuilder("tiny", seed=5, batch=1, opset=17)
    x = graph.input("input", 16, 12)
    for name, channels in (("first", 16), ("second", 16), ("third", 32)):
        x = graph.relu(graph.conv(name, x, channels, 3, padding=1))
    x = graph.flatten(graph.global_average_pool(x))
    return graph.model(graph.linear("classes", x, 10))


@pytest.fixture(scope="session")
def network(model: onnx.ModelProto) -> Network:
    return load(model)
