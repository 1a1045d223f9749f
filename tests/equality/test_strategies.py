# SPDX-License-Identifier: Apache-2.0
"""Rows, pipelines, replicas and one device give what ONNX Runtime gives on the whole network."""

from __future__ import annotations

import pytest

from decnn_tvm import LocalCluster
from decnn_tvm.frontend import load
from decnn_tvm.runtime.in_process import InProcessCluster
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import assert_logits_match, random_inputs, reference_outputs
from decnn_tvm.testing.split_execution import temporary_package

CASES = (
    ("resnet18", "rows", 3),
    ("resnet18", "rows", 4),
    ("mobilenet_v2", "rows", 2),
    ("googlenet", "pipeline", 3),
    ("resnet18", "pipeline", 4),
    ("vgg16_bn", "replicas", 2),
    ("resnet18", "single", 1),
)


@pytest.mark.parametrize(("name", "strategy", "workers"), CASES)
def test_strategy_is_exact(name: str, strategy: str, workers: int) -> None:
    model = zoo.small(name)
    network = load(model)
    inputs = random_inputs(network.inputs[0].shape, 3)
    with (
        temporary_package(network, workers=workers, strategy=strategy) as package,
        InProcessCluster(workers) as cluster,
        cluster.deploy(package) as session,
    ):
        assert package.plan.strategy == strategy
        ours = list(session.stream(inputs))
    assert_logits_match(ours, reference_outputs(model, inputs), 1e-5)


@pytest.mark.parametrize("strategy", ["rows", "pipeline", "replicas"])
def test_strategy_over_processes(strategy: str) -> None:
    model = zoo.small("resnet18")
    network = load(model)
    inputs = random_inputs(network.inputs[0].shape, 5)
    with (
        temporary_package(network, workers=2, strategy=strategy) as package,
        LocalCluster(2) as cluster,
        cluster.deploy(package) as session,
    ):
        ours = list(session.stream(inputs))
    assert_logits_match(ours, reference_outputs(model, inputs), 1e-5)
