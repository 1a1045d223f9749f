# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import copy
import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from decnn_tvm.errors import PackageError, PartitionError
from decnn_tvm.plan import (
    PAD,
    Host,
    Movement,
    Partial,
    Plan,
    Replicated,
    Sharded,
    Stage,
    Value,
    Weight,
    nbytes,
    placement_from_json,
    placement_to_json,
)
from decnn_tvm.plan_placements import from_ranges, to_ranges
from decnn_tvm.transfers import HOST, Run, check_assignment, transfers

SHAPE = (1, 8, 2, 2)
OWN = Sharded(1, ((0, 1), (2, 3), (4, 5), (6, 7)))
STRIDED = Sharded(1, ((0, 4), (1, 5), (2, 6), (3, 7)))


def _value(name, placement, shape=SHAPE, **options):
    return Value(name=name, shape=shape, dtype="float32", placement=placement, **options)


PLAN = Plan(
    model="m",
    groups=4,
    decoupled=True,
    inputs=("x",),
    outputs=("y",),
    values=(
        _value("x", Host()),
        _value("all", Replicated()),
        _value("a", OWN, block=2),
        _value("b", STRIDED),
        _value("p", Partial(), (1, 3)),
        _value("y", Host(), (1, 3)),
    ),
    weights=(
        Weight(name="w", shape=(2, 8, 1, 1), dtype="float32", combine="concat"),
        Weight(name="bias", shape=(3,), dtype="float32", combine="sum"),
    ),
    stages=(Stage(function="stage0", inputs=("all",), weights=("w",), outputs=("a",)),),
    movements=(
        Movement(source="x", target="all", kind="input"),
        Movement(source="a", target="b", kind="all_to_all"),
        Movement(source="b", target="all", kind="all_gather"),
        Movement(source="p", target="y", kind="output"),
    ),
)


def test_round_trip_through_json():
    assert Plan.from_json(json.loads(json.dumps(PLAN.to_json()))) == PLAN


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.integers(PAD, 40), max_size=20).map(tuple))
def test_ranges_round_trip(indices):
    assert from_ranges(to_ranges(indices)) == indices


def test_ranges_are_short():
    assert to_ranges(tuple(range(0, 64, 4))) == [[0, 4, 16]]


@pytest.mark.parametrize("placement", [Host(), Partial(), Replicated(), OWN])
def test_placement_round_trip(placement):
    assert placement_from_json(json.loads(json.dumps(placement_to_json(placement)))) == placement


def _retype(data, dtype):
    """Let every value and movement have an element type."""
    for value in data["values"]:
        value["dtype"] = dtype
    for movement in data["movements"]:
        movement["wire"] = dtype


def _damages():
    def edit(*path):
        def apply(change):
            def damage(data):
                target = data
                for step in path:
                    target = target[step]
                change(target)

            return damage

        return apply

    yield edit()(lambda d: d.pop("stages"))
    yield edit()(lambda d: d.update(surprise=1))
    yield edit("values", 0)(lambda d: d.pop("shape"))
    yield edit("values", 0)(lambda d: d.update(color="red"))
    yield edit("values", 0, "placement")(lambda d: d.update(kind="scattered"))
    yield edit("values", 2, "placement")(lambda d: d.pop("groups"))
    yield edit("values", 2, "placement", "groups", 0)(lambda d: d.append([9, 1, 1]))
    yield edit("weights", 0)(lambda d: d.update(shape=7))
    yield edit("stages", 0)(lambda d: d.pop("function"))
    yield edit("movements", 0)(lambda d: d.update(speed=3))
    yield edit("movements", 0)(lambda d: d.update(wire="float16"))
    yield edit("values", 2)(lambda d: d.update(dtype="int8"))
    yield edit()(lambda d: _retype(d, "int3"))
    yield edit()(lambda d: d.update(values=None))
    yield edit()(lambda d: d.update(groups="four"))
    yield edit()(lambda d: d.update(outputs="y"))
    yield edit("movements", 0)(lambda d: d.update(source="nobody"))
    yield edit("stages", 0)(lambda d: d.update(weights=["nobody"]))
    yield edit("weights", 0)(lambda d: d.update(combine="mix"))


@pytest.mark.parametrize("damage", list(_damages()))
def test_a_plan_with_missing_unknown_or_wrong_entries_is_refused(damage):
    data = copy.deepcopy(json.loads(json.dumps(PLAN.to_json())))
    damage(data)
    with pytest.raises(PackageError, match="Compile the package again"):
        Plan.from_json(data)


@pytest.mark.parametrize("data", [None, [], "plan", 3])
def test_something_else_is_refused(data):
    with pytest.raises(PackageError):
        Plan.from_json(data)


def test_shapes_on_a_device():
    a = PLAN.value("a")
    assert a.local_shape(1) == (1, 2, 2, 2) and a.local_shape(3) == (1, 6, 2, 2)
    assert a.physical_shape(3) == (1, 3, 2, 2, 2)
    assert PLAN.value("all").physical_shape(3) == SHAPE
    assert nbytes(a, 2) == 4 * 16
    assert PLAN.weight("w").local_shape(2) == (4, 8, 1, 1)
    assert PLAN.weight("bias").local_shape(2) == (3,)
    with pytest.raises(ValueError, match="unequal"):
        Sharded(1, ((0,), (1, 2)))


def test_an_exchange_sends_each_element_once():
    moves = transfers(PLAN, PLAN.movements[1], [(0, 1), (2, 3)])
    assert [(t.source, t.target, t.runs) for t in moves] == [
        (0, 0, (Run(0, 0, 1), Run(1, 2, 1))),
        (1, 1, (Run(2, 1, 1), Run(3, 3, 1))),
        (1, 0, (Run(0, 1, 1), Run(1, 3, 1))),
        (0, 1, (Run(2, 0, 1), Run(3, 2, 1))),
    ]


def test_inputs_gathers_and_sums():
    given_out = transfers(PLAN, PLAN.movements[0], [(0, 1, 2), (3,)])
    assert [(t.source, t.target, t.runs) for t in given_out] == [
        (HOST, 0, (Run(0, 0, 8),)),
        (HOST, 1, (Run(0, 0, 8),)),
    ]
    gathered = transfers(PLAN, PLAN.movements[2], [(0, 1, 2, 3)])
    assert [(t.source, t.target) for t in gathered] == [(0, 0)]
    summed = transfers(PLAN, PLAN.movements[3], [(0, 1), (2, 3)])
    assert [(t.source, t.target, t.reduce) for t in summed] == [(0, HOST, True), (1, HOST, True)]


@pytest.mark.parametrize("assignment", [[(0, 1)], [(0, 1, 2), ()], [(0, 1), (1, 2, 3)]])
def test_wrong_assignments(assignment):
    with pytest.raises(PartitionError, match="4 channel groups"):
        check_assignment(PLAN, assignment)
    check_assignment(PLAN, [(2, 0), (1,), (3,)])


def test_a_device_without_groups_takes_no_part():
    for movement in PLAN.movements:
        three = transfers(PLAN, movement, [(0, 1), (), (2, 3)])
        two = transfers(PLAN, movement, [(0, 1), (2, 3)])
        ranks = {HOST: HOST, 0: 0, 1: 2}
        moved = [
            dataclasses.replace(t, source=ranks[t.source], target=ranks[t.target]) for t in two
        ]
        assert three == moved
