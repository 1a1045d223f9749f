# SPDX-License-Identifier: Apache-2.0
"""Compiled networks on worker processes, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from decnn_tvm.compiler import compile_network
from decnn_tvm.frontend import load
from decnn_tvm.package import Package
from decnn_tvm.runtime.local_cluster import LocalCluster
from decnn_tvm.runtime.statistics import DeviceStats
from decnn_tvm.testing.equality import (
    all_reference_outputs,
    assert_logits_match,
    random_inputs,
    reference_outputs,
)
from decnn_tvm.testing.graph_builder import GraphBuilder

FORBIDDEN = {"tvm", "onnx", "onnxruntime", "xgboost", "torch"}
RUNTIME = {
    "assignment",
    "errors",
    "manifest",
    "package",
    "plan",
    "plan_parts",
    "plan_placements",
    "runtime",
    "transfers",
}
"""The modules of this package that a worker needs."""


@pytest.fixture(scope="module")
def two() -> Iterator[LocalCluster]:
    with LocalCluster(2, timeout=60) as cluster:
        yield cluster


def grouped_network(*, batch: int = 1) -> onnx.ModelProto:
    """Return a decoupled network: a stem, a shuffle between group convolutions, a dense layer."""
    graph = GraphBuilder("grouped", seed=5, batch=batch, opset=17)
    x = graph.relu(graph.conv("stem", graph.input("input", 3, 12), 16, 3, padding=1))
    x = graph.relu(graph.conv("first", x, 32, 3, padding=1, groups=2))
    x = graph.channel_shuffle(x, 2)
    x = graph.relu(graph.conv("second", x, 32, 3, stride=2, padding=1, groups=2))
    return graph.model(graph.linear("fc", graph.flatten(graph.global_average_pool(x)), 10))


def branching_network() -> onnx.ModelProto:
    """Return a dense network with two inputs and three outputs, one of them an activation."""
    graph = GraphBuilder("branching", seed=6, batch=1, opset=17)
    left = graph.conv("left", graph.input("image", 3, 10), 16, 3, padding=1)
    right = graph.conv("right", graph.input("depth", 1, 10), 16, 3, padding=1)
    x = graph.relu(graph.add(left, right))
    y = graph.relu(graph.conv("body", x, 16, 3, padding=1))
    pooled = graph.flatten(graph.global_average_pool(y))
    return graph.model(graph.linear("fc", pooled, 5), graph.linear("aux", pooled, 7), y)


def compiled(
    model: onnx.ModelProto, path: Path, *, batch: int = 1, wire: str = "float32"
) -> Package:
    file = path / "model.onnx"
    onnx.save(model, file)
    return compile_network(load(file, batch=batch), path / "package", workers=2, wire=wire)


@pytest.mark.parametrize("batch", [1, 2])
def test_exact_in_float32(two: LocalCluster, tmp_path: Path, batch: int) -> None:
    model = grouped_network(batch=batch)
    inputs = random_inputs((batch, 3, 12, 12))
    with two.deploy(compiled(model, tmp_path, batch=batch)) as session:
        outputs = list(session.stream(inputs, in_flight=3))
        for stats in session.stats():
            assert stats.images == len(inputs) * batch
            assert stats.weight_bytes > 0
    assert_logits_match(outputs, reference_outputs(model, inputs), 1e-5)


def test_half_the_bytes_in_float16(two: LocalCluster, tmp_path: Path) -> None:
    model, inputs = grouped_network(), random_inputs((1, 3, 12, 12))
    sent = {}
    for wire in ("float32", "float16"):
        folder = tmp_path / wire
        folder.mkdir()
        package = compiled(model, folder, wire=wire)
        with two.deploy(package) as session:
            outputs = list(session.stream(inputs))
            sent[wire] = [exchanged(package, s) / len(inputs) for s in session.stats()]
    assert_logits_match(outputs, reference_outputs(model, inputs), 1e-3)
    # A worker sends half of its 16 channels of 12x12, and a header of 64 bytes.
    assert sent["float32"] == [8 * 144 * 4 + 64] * 2
    assert sent["float16"] == [8 * 144 * 2 + 64] * 2


def exchanged(package: Package, stats: DeviceStats) -> int:
    """Return the bytes that a worker sent to others."""
    between = {str(m) for m in package.plan.movements if m.kind not in ("input", "output")}
    return sum(count for name, count in stats.sent_bytes.items() if name in between)


def test_several_inputs_and_outputs(two: LocalCluster, tmp_path: Path) -> None:
    model = branching_network()
    images, depths = random_inputs((1, 3, 10, 10)), random_inputs((1, 1, 10, 10), seed=1)
    feeds = [{"image": i, "depth": d} for i, d in zip(images, depths, strict=True)]
    with two.deploy(compiled(model, tmp_path)) as session:
        results = list(session.stream(feeds, in_flight=2))
        again = session.run(feeds[0])
    references = all_reference_outputs(model, feeds)
    names = [output.name for output in model.graph.output]
    for index, name in enumerate(names):
        ours = [result[name] for result in results]
        assert_logits_match(ours, [outputs[index] for outputs in references], 1e-5)
    assert [list(result) for result in results] == [names] * len(feeds)
    assert all(np.array_equal(again[name], results[0][name]) for name in names)


def test_workers_import_the_runtime_alone(two: LocalCluster, tmp_path: Path) -> None:
    with two.deploy(compiled(grouped_network(), tmp_path)) as session:
        session.run(random_inputs((1, 3, 12, 12), 1)[0])
        for worker in two.workers:
            modules = {name for name in worker.call("modules") if not name.startswith("_")}
            assert not FORBIDDEN & {name.split(".")[0] for name in modules}
            own = {name.split(".")[1] for name in modules if name.startswith("decnn_tvm.")}
            assert own <= RUNTIME
