# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import pytest

from decnn_tvm.placement.boundary_blocks import with_blocks
from decnn_tvm.plan import Host, Movement, Plan, Replicated, Sharded, Value
from decnn_tvm.transfers import transfers


def _plan(source, target, shape=(1, 64, 4, 4)):
    def value(name, placement):
        return Value(name=name, shape=shape, dtype="float32", placement=placement)

    return Plan(
        model="m",
        groups=2,
        decoupled=False,
        inputs=("x",),
        outputs=("y",),
        values=tuple(
            value(n, p)
            for n, p in zip("xabcy", (Host(), source, target, target, Host()), strict=True)
        ),
        weights=(),
        stages=(),
        movements=(
            Movement(source="a", target="b", kind="all_to_all"),
            Movement(source="b", target="c", kind="local"),
        ),
    )


HALVES = Sharded(1, (tuple(range(32)), tuple(range(32, 64))))
SHUFFLED = Sharded(1, (tuple(range(0, 64, 2)), tuple(range(1, 64, 2))))
BY_RECEIVER = Sharded(
    1,
    tuple((*range(first, first + 32, 2), *range(first + 1, first + 32, 2)) for first in (0, 32)),
)
QUARTERS = Sharded(1, ((*range(0, 24),), (*range(40, 64),)))


@pytest.mark.parametrize(
    ("source", "target", "blocks"),
    [
        (HALVES, HALVES, [1, 32, 32, 32, 1]),
        (HALVES, SHUFFLED, [1, 1, 1, 1, 1]),
        (BY_RECEIVER, SHUFFLED, [1, 16, 16, 16, 1]),
        (HALVES, Replicated(), [1, 32, 32, 32, 1]),
        (HALVES, QUARTERS, [1, 8, 8, 8, 1]),
        (Host(), Replicated(), [1, 1, 1, 1, 1]),
    ],
)
def test_no_transfer_cuts_a_block(source, target, blocks):
    plan = with_blocks(_plan(source, target), lambda unit: unit)
    assert [value.block for value in plan.values] == blocks
    for movement in plan.movements:
        block = plan.value(movement.source).block
        for transfer in transfers(plan, movement, [(0,), (1,)]):
            for run in transfer.runs:
                assert not (run.source % block or run.target % block or run.length % block)


def test_tied_values_have_one_block():
    plan = _plan(BY_RECEIVER, SHUFFLED)
    local = Value(name="residual", shape=(1, 64, 4, 4), dtype="float32", placement=HALVES)
    plan = dataclasses.replace(plan, values=(*plan.values, local))
    assert with_blocks(plan, lambda unit: unit).value("residual").block == 32
    tied = with_blocks(plan, lambda unit: unit, [("residual", "a")])
    assert tied.value("residual").block == tied.value("a").block == 16


def test_what_is_not_an_image_stays_plain():
    rows = Sharded(2, ((0, 1), (2, 3)))
    assert {v.block for v in with_blocks(_plan(rows, rows), lambda unit: unit).values} == {1}
    flat = with_blocks(_plan(HALVES, HALVES, (1, 64)), lambda unit: unit)
    assert {v.block for v in flat.values} == {1}
