# SPDX-License-Identifier: Apache-2.0
"""Rows, a pipeline, replicas and one device on worker processes, one of which is lost."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from decnn_tvm.compiler import compile_network
from decnn_tvm.errors import ClusterError
from decnn_tvm.frontend import load
from decnn_tvm.package import Package
from decnn_tvm.runtime.executor import Executor
from decnn_tvm.runtime.local_cluster import LocalCluster
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.testing.equality import assert_logits_match, random_inputs, reference_outputs
from decnn_tvm.testing.graph_builder import GraphBuilder

STAY_AWAY = Policy(rejoin=False)
INPUTS = random_inputs((1, 3, 13, 13), 6)


def network() -> onnx.ModelProto:
    """Return a network with a stride, a residual sum, a pool, and dense layers, of 13 rows."""
    graph = GraphBuilder("branches", seed=5, batch=1, opset=17)
    x = graph.relu(graph.conv("stem", graph.input("input", 3, 13), 16, 3, padding=1))
    y = graph.relu(graph.conv("first", x, 16, 3, padding=1, groups=16))
    x = graph.max_pool(graph.add(graph.conv("second", y, 16, 1), x), 3, 2, 1)
    return graph.model(graph.linear("fc", graph.flatten(graph.relu(x)), 10))


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Package]:
    """Return a package for three workers by each strategy; that of rows has all libraries."""
    path: Path = tmp_path_factory.mktemp("strategies")
    onnx.save(network(), path / "model.onnx")
    options = {
        "rows": {"workers": 3, "all_shares": True},
        "few libraries": {"strategy": "rows", "workers": 3},
        "pipeline": {"workers": 3},
        "replicas": {"workers": 3},
        "single": {},
    }
    return {
        name: compile_network(
            load(path / "model.onnx"), path / name, **{"strategy": name, **chosen}
        )
        for name, chosen in options.items()
    }


@pytest.fixture
def three() -> Iterator[LocalCluster]:
    with LocalCluster(3, timeout=30, restart=False) as cluster:
        yield cluster


def check(results: list[object]) -> None:
    references = reference_outputs(network(), INPUTS)
    assert_logits_match(results, references, 1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("strategy", "before", "after"),
    [
        ("rows", ((0,), (1,), (2,)), ((0, 1), (), (2,))),
        ("pipeline", ((0,), (1,), (2,)), ((0, 1), (), (2,))),
        ("replicas", ((0, 1), (2, 3), (4, 5)), ((0, 1, 2), (), (3, 4, 5))),
    ],
)
def test_the_rest_go_on(
    three: LocalCluster, packages: dict[str, Package], strategy: str, before, after
) -> None:
    with three.deploy(packages[strategy], policy=STAY_AWAY) as session:
        assert session.assignment == before
        results = session.stream([*INPUTS, *INPUTS], in_flight=4)
        first = [next(results) for _ in INPUTS]
        os.kill(three.process_ids[1], signal.SIGKILL)
        second = list(results)
        check(first)
        check(second)
        owned = [sorted(groups) for groups in session.assignment]
        assert [len(groups) for groups in owned] == [len(groups) for groups in after]
        if strategy == "rows":
            assert session.assignment == after


def test_replicas_take_turns(three: LocalCluster, packages: dict[str, Package]) -> None:
    with three.deploy(packages["replicas"]) as session:
        check(list(session.stream(INPUTS)))
        assert [device.samples for device in session.stats()] == [2, 2, 2]


def test_strips_without_the_library_for_more_are_not_taken_over(
    three: LocalCluster, packages: dict[str, Package]
) -> None:
    with three.deploy(packages["few libraries"], policy=STAY_AWAY) as session:
        session.run(INPUTS[0])
        os.kill(three.process_ids[1], signal.SIGKILL)
        with pytest.raises(ClusterError, match=r"the 3 row strips do not fit.*all_shares"):
            session.run(INPUTS[0])


def test_one_device_is_one(packages: dict[str, Package]) -> None:
    with LocalCluster(1, timeout=30) as cluster, cluster.deploy(packages["single"]) as session:
        check(list(session.stream(INPUTS)))
        assert session.assignment == ((0,),)


def test_samples_of_other_replicas_are_not_remembered(packages: dict[str, Package]) -> None:
    """Each replica sees a third of all samples, and keeps no note of the others."""
    plan = packages["replicas"].plan
    executor = Executor(plan, [(0, 1), (2, 3), (4, 5)], 1)
    for sample in range(1, 3000, 3):
        executor.drop(sample)
    assert executor._closed == set() and executor._closed_below > 2990
