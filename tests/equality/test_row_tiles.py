# SPDX-License-Identifier: Apache-2.0
"""Packages whose layers beside exchanges run in bands of rows, against ONNX Runtime."""

from __future__ import annotations

import pytest

from decnn_tvm.decoupling import decouple
from decnn_tvm.frontend import load, to_onnx
from decnn_tvm.network import Network
from decnn_tvm.runtime.in_process import InProcessCluster
from decnn_tvm.testing import zoo
from decnn_tvm.testing.equality import assert_logits_match, random_inputs, reference_outputs
from decnn_tvm.testing.split_execution import split_outputs, temporary_package


@pytest.fixture(scope="module")
def network() -> Network:
    return decouple(load(zoo.small("resnet50")), groups=2, width=1.5)


def test_bands_change_neither_results_nor_memory(network: Network) -> None:
    inputs = random_inputs((1, 3, 64, 64), 3)
    reference = reference_outputs(to_onnx(network), inputs)
    weight_bytes, stages, sent = [], [], []
    for bands in (1, 3):
        with (
            temporary_package(network, workers=2, row_tiles=bands) as package,
            InProcessCluster(2) as cluster,
            cluster.deploy(package) as session,
        ):
            assert_logits_match([session.run(x) for x in inputs], reference, 1e-5)
            stats = session.stats()[0]
            weight_bytes.append(stats.weight_bytes)
            stages.append(len(package.plan.stages))
            headers = 64 * len(package.plan.movements)
            sent.append(sum(stats.sent_bytes.values()) / len(inputs) - headers)
    assert weight_bytes[0] == weight_bytes[1]
    assert stages[0] == 4 and stages[1] > 3 * 4
    assert sent[0] == pytest.approx(sent[1], abs=64 * 2)


def test_a_dense_network_in_bands() -> None:
    model = zoo.small("resnet18", image_size=32)
    inputs = random_inputs((1, 3, 32, 32), 3)
    with temporary_package(load(model), workers=2, row_tiles=2) as package:
        assert sum(m.kind not in ("input", "output") for m in package.plan.movements) == 12
        ours = split_outputs(package, inputs, (1, 1))
    assert_logits_match(ours, reference_outputs(model, inputs), 1e-5)
