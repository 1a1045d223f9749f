# SPDX-License-Identifier: Apache-2.0
"""The headline network over four workers: equality, exchanges, bytes, memory, libraries."""

from __future__ import annotations

import pytest

from decnn_tvm.decoupling import decouple
from decnn_tvm.frontend import load, to_onnx
from decnn_tvm.runtime import LocalCluster
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import assert_logits_match, random_inputs, reference_outputs
from decnn_tvm.testing.split_execution import temporary_package

MEGABYTES = {"float32": 1.84, "float16": 0.92}
"""Sent per worker and image in the three exchanges (DESIGN: 4 devices, x1.75, 224x224)."""


@pytest.mark.slow
@pytest.mark.parametrize("wire", ["float32", "float16"])
def test_resnet50_over_four_workers(wire: str) -> None:
    network = decouple(load(zoo.resnet(50)), preset="resnet50-x1.75", weights="fresh")
    inputs = random_inputs(network.inputs[0].shape)
    reference = reference_outputs(to_onnx(network), inputs)
    with temporary_package(network, workers=4, wire=wire) as package:
        kinds = [movement.kind for movement in package.plan.movements]
        assert kinds == ["input", "all_to_all", "all_to_all", "all_to_all", "output"]
        (libraries,) = package.manifest.targets.values()
        assert list(libraries.libraries) == [1]
        with LocalCluster(4) as cluster, cluster.deploy(package) as session:
            outputs = [session.run(sample) for sample in inputs]
            stats = session.stats()
    assert_logits_match(outputs, reference)
    for device in stats:
        exchanges = [v for k, v in device.sent_bytes.items() if not k.endswith("-> output")]
        assert len(exchanges) == 3
        assert device.weight_bytes <= 22e6
        sent = sum(exchanges) / len(inputs)
        assert sent == pytest.approx(MEGABYTES[wire] * 1e6, rel=0.03)
