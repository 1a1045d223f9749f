# SPDX-License-Identifier: Apache-2.0
"""Choose the channel block of every tensor at a stage boundary.

A boundary tensor may be stored in blocks if no transfer cuts one: the block must divide the start
and length of every run that is copied between any two channel groups. Tensors that a movement
ties have the same block. What the coordinator sees, and what isn't NCHW, stays plain.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from decnn_tvm.plan import Host, Indices, Movement, Plan, Sharded, Strips, Value
from decnn_tvm.transfers import transfers


def with_blocks(
    plan: Plan, choose: Callable[[int], int], ties: Sequence[tuple[str, str]] = ()
) -> Plan:
    """Return `plan` with the block of every value set.

    Parameters
    ----------
    plan : Plan
        A plan whose values have plain layouts.
    choose : callable
        Maps the unit of a tensor, in channels, to a block that divides it.
    ties : sequence of pairs of str
        Values that should have one block, besides those that a movement ties.
    """
    units = {value.name: _own_unit(value) for value in plan.values}
    one_each = [(group,) for group in range(plan.groups)]
    for movement in plan.movements:
        units[movement.source] = math.gcd(units[movement.source], _unit(plan, movement, one_each))
    changed = True
    while changed:
        changed = False
        for pair in [*((m.source, m.target) for m in plan.movements), *ties]:
            common = math.gcd(*(units[name] for name in pair))
            for name in pair:
                changed |= units[name] != common
                units[name] = common
    values = tuple(dataclasses.replace(v, block=choose(units[v.name])) for v in plan.values)
    return dataclasses.replace(plan, values=values)


def _own_unit(value: Value) -> int:
    if len(value.shape) != 4 or isinstance(value.placement, Host):
        return 1
    if isinstance(value.placement, Strips):
        return value.shape[1] if value.placement.axis == 2 else 1
    if isinstance(value.placement, Sharded):
        return value.placement.extent if value.placement.axis == 1 else 1
    return value.shape[1]


def _unit(plan: Plan, movement: Movement, assignment: Sequence[Indices]) -> int:
    numbers = [
        number
        for transfer in transfers(plan, movement, assignment)
        for run in transfer.runs
        for number in (run.source, run.target, run.length, 1 if transfer.axis != 1 else 0)
        if transfer.axis != 2  # rows are whole in any layout
    ]
    return math.gcd(*numbers)
