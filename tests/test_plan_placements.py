# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json

import pytest

from decnn_tvm.assignment import owners_of_sample, turn_order
from decnn_tvm.errors import PackageError, PartitionError
from decnn_tvm.plan import (
    PAD,
    Host,
    Movement,
    Owned,
    Plan,
    Replicated,
    Stage,
    Strips,
    Value,
    Weight,
    held,
    holds,
    local_shape,
    placement_from_json,
    placement_to_json,
)
from decnn_tvm.runtime.steps import stages_of, steps_of
from decnn_tvm.transfers import HOST, Run, check_assignment, transfers

OWN = Strips(2, 2)
HALO = Strips(2, 2, -1, 2, "zero")


def _plan(strategy, source, target, groups=3, height=5, **options):
    shape = (1, 4, height, 2)
    places = {"x": Host(), "a": source, "b": target, "c": target, "y": Host()}
    values = (Value(name=n, shape=shape, dtype="float32", placement=p) for n, p in places.items())
    stages = (
        Stage(function="stage0", inputs=("a",), weights=(), outputs=("b",)),
        Stage(function="stage1", inputs=("c",), weights=("w",), outputs=("y",)),
    )
    moves = (("x", "a"), ("b", "c"))
    return Plan(
        model="m",
        groups=groups,
        decoupled=False,
        inputs=("x",),
        outputs=("y",),
        values=tuple(values),
        weights=(Weight(name="w", shape=(1,), dtype="float32", combine="replicate"),),
        stages=stages,
        movements=tuple(Movement(source=s, target=t, kind="made up") for s, t in moves),
        strategy=strategy,
        **options,
    )


@pytest.mark.parametrize("placement", [OWN, HALO, Owned(2), Strips(2, 4, 0, -1, "lowest")])
def test_placements_survive_json(placement):
    data = json.loads(json.dumps(placement_to_json(placement)))
    assert placement_from_json(data) == placement


def test_strips_of_neighbours_are_one_strip():
    assert held(OWN, 5, (0,)) == (0, 1)
    assert held(OWN, 5, (2,)) == (4, PAD)
    assert held(HALO, 5, (0,)) == (PAD, 0, 1, 2)
    assert held(HALO, 5, (2, 1)) == (1, 2, 3, 4, PAD, PAD)
    assert local_shape((1, 4, 5, 2), HALO, 2) == (1, 4, 6, 2)
    assert held(Strips(2, 4, 0, -1), 7, (0, 1)) == (0, 1, 2, 3, 4, 5, 6)


def test_who_holds_something():
    assert holds(HALO, (1,)) and not holds(HALO, ())
    assert holds(Owned(1), (0, 1)) and not holds(Owned(1), (0,))
    assert not holds(Host(), (0,))


def test_bad_strips_are_refused():
    with pytest.raises(ValueError, match="without rows"):
        Strips(2, 1, 0, -1)
    with pytest.raises(ValueError, match="padding of 'one'"):
        Strips(2, 1, 0, 0, "one")


def test_only_the_halo_is_sent():
    plan = _plan("rows", OWN, HALO)
    plan = dataclasses.replace(
        plan,
        values=tuple(
            dataclasses.replace(v, placement=OWN) if v.name == "b" else v for v in plan.values
        ),
    )
    found = transfers(plan, plan.movements[1], [(0,), (1, 2)])
    assert [(t.source, t.target, t.axis) for t in found] == [
        (0, 0, 2),
        (1, 1, 2),
        (1, 0, 2),
        (0, 1, 2),
    ]
    # Worker 0 has rows 0 and 1 behind a row of padding, and gets row 2; worker 1 gets row 1.
    assert [t.runs for t in found] == [
        (Run(0, 1, 2),),
        (Run(0, 1, 3),),
        (Run(0, 3, 1),),
        (Run(1, 0, 1),),
    ]


def test_strips_of_a_device_are_neighbours():
    plan = _plan("rows", OWN, HALO)
    check_assignment(plan, [(1, 2), (), (0,)])
    with pytest.raises(PartitionError, match="no neighbours"):
        check_assignment(plan, [(0, 2), (1,)])


def test_a_stage_of_a_pipeline_runs_on_its_owner():
    plan = _plan("pipeline", Owned(0), Owned(1))
    stages = tuple(dataclasses.replace(s, group=g) for g, s in enumerate(plan.stages))
    values = tuple(
        dataclasses.replace(v, placement=Owned(0)) if v.name == "b" else v for v in plan.values
    )
    plan = dataclasses.replace(plan, stages=stages, values=values)
    owners = [(1,), (0, 2)]
    assert stages_of(plan, owners, 0) == (1,) and stages_of(plan, owners, HOST) == ()
    assert [str(step) for step in steps_of(plan, owners, 1)] == [
        "receive a from host",
        "compute stage0: a -> b",
        "send b -> c to 0",
    ]
    assert [str(step) for step in steps_of(plan, owners, 0)] == [
        "receive c from 1",
        "compute stage1: c -> y",
    ]
    same = steps_of(plan, [(0, 1), (2,)], 0)
    assert "copy b -> c" in [str(step) for step in same]


def test_replicas_take_turns():
    plan = _plan("replicas", Replicated(), Replicated())
    owners = [(0, 2), (1,)]
    assert [owners_of_sample(plan, owners, s) for s in (0, 1, 5)] == [
        ((0, 2), ()),
        ((), (1,)),
        ((0, 2), ()),
    ]
    assert turn_order([(0, 1, 2), (3,), (4, 5)]) == (0, 2, 0, 1, 2, 0)
    assert [str(step) for step in steps_of(plan, owners, HOST, 4)][:1] == ["send x -> a to 1"]
    assert steps_of(plan, owners, 0, 4) == []
    assert len(steps_of(plan, owners, 1, 4)) == 4


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"strategy": "columns"}, "strategy 'columns'"),
        ({"groups": 1}, "owned by none of 1 groups"),
    ],
)
def test_a_plan_that_does_not_fit_together_is_refused(changed, message):
    data = json.loads(json.dumps(_plan("pipeline", Owned(0), Owned(1)).to_json())) | changed
    with pytest.raises(PackageError, match=message):
        Plan.from_json(data)
