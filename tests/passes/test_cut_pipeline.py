# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from tvm.relax import op
from tvm.relax.op import nn

from decnn_tvm.calibration import calibrate
from decnn_tvm.errors import PartitionError
from decnn_tvm.passes import CutPipeline, KeepWhole, SplitStages
from decnn_tvm.passes.split_stages import plan_of
from decnn_tvm.plan import Host, Owned, Replicated
from tests.modules import assert_close, drawn, network, run
from tests.simulated_devices import Devices

WEIGHTS = {name: drawn(4, 4, 3, 3, seed=i) for i, name in enumerate("abc")}


def _chain(emit, x, a, b, c):
    """Three layers, of which the last one adds what the first one computed."""
    y = emit(nn.relu(emit(nn.conv2d(x, a, padding=1))))
    z = emit(nn.relu(emit(nn.conv2d(y, b, padding=1))))
    return op.add(emit(nn.conv2d(z, c, padding=1)), y)


def _tied(emit, x, a):
    y = emit(nn.relu(emit(nn.conv2d(x, a, padding=1))))
    halves = emit(op.split(y, 2, axis=1))
    z = emit(op.concat([emit(halves[1]), emit(halves[0])], 1))
    return nn.conv2d(z, a, padding=1)


def _plan(mod):
    return plan_of(SplitStages()(mod))


NET = network(_chain, (1, 4, 7, 5), weights=WEIGHTS)


@pytest.mark.parametrize("assignment", [[(0,), (1,), (2,)], [(2,), (0, 1)], [(0, 2), (1,)]])
def test_a_pipeline_computes_the_same(assignment):
    x = drawn(1, 4, 7, 5)
    mod = SplitStages()(CutPipeline(stages=3)(NET))
    devices = Devices(plan_of(mod), dict.fromkeys((1, 2), mod), assignment)
    assert_close(next(iter(devices.run(x=x).values())), run(NET, x)[0])


@pytest.mark.parametrize(
    ("wire", "calibrated"), [("float16", False), ("int8", True), ("int8", False)]
)
def test_narrow_messages(wire, calibrated):
    x, spread = drawn(1, 4, 7, 5), CutPipeline(stages=3)(NET)
    limits = calibrate(spread, [x], "max") if calibrated else {}
    mod = SplitStages(wire=wire, limits=limits)(spread)
    plan = plan_of(mod)
    sent = [m for m in plan.movements if m.kind == "point_to_point"]
    scales = [] if calibrated or wire != "int8" else ["float32"]
    assert {m.wire for m in sent} == {"uint8" if wire == "int8" else wire, *scales}
    assert all(w.group is not None for w in plan.weights)
    ours = next(iter(Devices(plan, {1: mod}, [(0,), (1,), (2,)]).run(x=x).values()))
    assert_close(ours, run(NET, x)[0], 0.02)
    assert not np.array_equal(ours, run(NET, x)[0])


def test_layers_are_cut_and_skips_go_straight():
    plan = _plan(CutPipeline(stages=3)(NET))
    assert plan.strategy == "pipeline" and not plan.decoupled
    assert [stage.group for stage in plan.stages] == [0, 1, 2]
    assert [(w.name, w.group) for w in plan.weights] == [("a", 0), ("b", 1), ("c", 2)]
    ends = [(m.kind, plan.value(m.target).placement) for m in plan.movements]
    assert ends == [
        ("input", Owned(0)),
        ("point_to_point", Owned(1)),
        ("point_to_point", Owned(2)),
        ("point_to_point", Owned(2)),
        ("output", Host()),
    ]
    sources = {plan.value(m.source).placement for m in plan.movements if m.kind != "input"}
    assert sources == {Owned(0), Owned(1), Owned(2)}


def test_weights_of_two_stages_and_tuples():
    """A weight that two stages read is held by both; a tuple is not cut."""
    net, x = network(_tied, (1, 4, 7, 5), weights={"a": WEIGHTS["a"]}), drawn(1, 4, 7, 5)
    mod = SplitStages()(CutPipeline(stages=2)(net))
    plan = plan_of(mod)
    assert [weight.group for weight in plan.weights] == [0, 1]
    devices = Devices(plan, {1: mod}, [(0,), (1,)])
    assert_close(next(iter(devices.run(x=x).values())), run(net, x)[0])


def test_what_can_not_be_cut_is_refused():
    with pytest.raises(PartitionError, match="stages=0"):
        CutPipeline(stages=0)
    with pytest.raises(PartitionError, match=r"9 stages asked for.* into 6 at most"):
        CutPipeline(stages=9)(NET)


def test_replicas_and_one_device_keep_the_network_whole():
    x = drawn(1, 4, 7, 5)
    for turns, strategy in ((None, "single"), (3, "replicas")):
        mod = SplitStages()(KeepWhole(turns=turns)(NET))
        plan = plan_of(mod)
        assert (plan.strategy, plan.groups) == (strategy, turns or 1)
        assert len(plan.stages) == 1 and [m.kind for m in plan.movements] == ["input", "output"]
        assert plan.value(plan.movements[0].target).placement == Replicated()
    ours = Devices(plan, {3: mod}, [(0, 1, 2)]).run(x=x)
    assert_close(next(iter(ours.values())), run(NET, x)[0])
    with pytest.raises(PartitionError, match="turns=0"):
        KeepWhole(turns=0)
