# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import pytest

from decnn_tvm.compiler import split_network
from decnn_tvm.frontend import load
from decnn_tvm.network import Network
from decnn_tvm.passes.split_stages import plan_of
from decnn_tvm.plan import Plan, Strategy
from decnn_tvm.planning.splits import Splitter, with_wire
from decnn_tvm.targets import resolve_target
from decnn_tvm.testing.graph_builder import GraphBuilder
from tests.planning.test_planner import small_resnet


@pytest.mark.parametrize("strategy", ["channels", "rows", "pipeline"])
def test_float16_is_reckoned_as_it_is_compiled(strategy: Strategy) -> None:
    network = small_resnet()
    split = Splitter([resolve_target("host")]).split(network, strategy, (1, 1))
    real = plan_of(split_network(network, 2, None, False, "float16", strategy=strategy)[1])
    assert_same(with_wire(split.plan, "float16"), real)


@pytest.mark.parametrize("exchanged_first", [True, False])
def test_an_output_that_is_exchanged_too_travels_in_full(exchanged_first: bool) -> None:
    """And so does what is added up, wherever it goes on."""
    network = branching(exchanged_first)
    split = Splitter([resolve_target("host")]).split(network, "channels", (1, 1))
    real = plan_of(split_network(network, 2, None, False, "float16")[1])
    reckoned = with_wire(split.plan, "float16")
    wires = Counter((m.kind, m.wire) for m in reckoned.movements)
    assert wires["output", "float32"] == 2 and wires["all_gather", "float16"] == 1
    assert_same(reckoned, real)
    back = dataclasses.replace(split.plan, movements=split.plan.movements[::-1])
    turned = with_wire(back, "float16")
    assert {*turned.movements} == {*reckoned.movements} and turned.values == reckoned.values


def branching(exchanged_first: bool) -> Network:
    """Return two convolutions, the outputs of both being outputs, in one order or the other."""
    g = GraphBuilder("branching", seed=0, batch=1, opset=17)
    stem = g.relu(g.conv("stem", g.input("x", 3, 8), 8, 3, padding=1))
    last = g.relu(g.conv("last", stem, 8, 3, padding=1))
    model = g.model(*((stem, last) if exchanged_first else (last, stem)))
    with TemporaryDirectory() as folder:
        onnx.save(model, Path(folder) / "model.onnx")
        return load(Path(folder) / "model.onnx")


def assert_same(reckoned: Plan, real: Plan) -> None:
    """Compare values and who gives and takes them, in any order."""
    assert {*reckoned.movements} == {*real.movements}
    for name in ("name", "shape", "dtype", "placement"):
        found, expected = (
            Counter((v.name, repr(getattr(v, name))) for v in plan.values)
            for plan in (reckoned, real)
        )
        assert found == expected
    for ours, theirs in zip(reckoned.stages, real.stages, strict=True):
        assert {*ours.inputs} == {*theirs.inputs} and {*ours.outputs} == {*theirs.outputs}


@pytest.mark.parametrize("strategy", ["single", "replicas", "pipeline", "rows", "channels"])
def test_every_way_has_the_work_of_the_network(strategy: str) -> None:
    network, target = small_resnet(), resolve_target("host")
    splitter = Splitter([target])
    whole = splitter.split(network, "single", (1,)).kernels(target, (0,))
    macs = sum(cost.macs for costs in whole.values() for cost in costs)
    shares = (1,) if strategy == "single" else (1, 1)
    split = splitter.split(network, strategy, shares)  # type: ignore[arg-type]
    found = [
        sum(cost.macs for costs in split.kernels(target, (group,)).values() for cost in costs)
        for group in range(len(shares))
    ]
    if strategy == "replicas":
        assert found == [macs, macs]
    elif strategy == "rows":
        assert macs <= sum(found) < 1.5 * macs  # rows at the seams are computed twice
    else:
        assert sum(found) == macs


def test_a_split_is_made_once() -> None:
    splitter = Splitter([resolve_target("host")])
    first = splitter.split(small_resnet(), "rows", (1, 1))
    assert splitter.split(small_resnet(), "rows", (1, 1)) is first
