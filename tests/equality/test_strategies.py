# SPDX-License-Identifier: Apache-2.0
"""Rows, pipelines, replicas and one device give what ONNX Runtime gives on the whole network."""

from __future__ import annotations

import pytest

from decnn_tvm import LocalCluster
from decnn_tvm.decoupling import decouple
from decnn_tvm.frontend import load, to_onnx
from decnn_tvm.runtime.in_process import InProcessCluster
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import assert_logits_match, random_inputs, reference_outputs
from decnn_tvm.testing.split_execution import split_outputs, temporary_package

CASES = (
    ("resnet18", "rows", 3, {"image_size": 67}),  # an odd height in every layer
    ("resnet18", "rows", 4, {}),  # two rows at the end, over four devices
    ("mobilenet_v2", "rows", 2, {}),
    ("googlenet", "pipeline", 3, {}),
    ("resnet18", "pipeline", 4, {}),
    ("vgg16_bn", "replicas", 2, {}),
    ("resnet18", "single", 1, {}),
)


@pytest.mark.parametrize(("name", "strategy", "workers", "options"), CASES)
def test_strategy_is_exact(name: str, strategy: str, workers: int, options: dict[str, int]) -> None:
    model = zoo.small(name, **options)
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


def test_a_decoupled_network_and_uneven_strips() -> None:
    """Its group convolutions and shuffles run whole; devices have two strips, one and one."""
    network = decouple(load(zoo.small("resnet18")), groups=2, multiple=4, weights="fresh")
    inputs = random_inputs(network.inputs[0].shape, 3)
    with temporary_package(network, strategy="rows", shares=(2, 1, 1)) as package:
        ours = split_outputs(package, inputs, (2, 1, 1))
    assert_logits_match(ours, reference_outputs(to_onnx(network), inputs))


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
