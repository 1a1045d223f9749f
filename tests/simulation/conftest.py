# SPDX-License-Identifier: Apache-2.0
"""Plans written by hand, with sizes that are easy to reckon with."""

from __future__ import annotations

from collections.abc import Sequence

from decnn_tvm.plan import Host, Movement, Placement, Plan, Replicated, Sharded, Stage, Value

HEADER = 64
"""Bytes of a message besides its payload."""


def chunks(channels: int, groups: int) -> tuple[tuple[int, ...], ...]:
    """Group g holds the g-th part of the channels."""
    size = channels // groups
    return tuple(tuple(range(g * size, (g + 1) * size)) for g in range(groups))


def rounds(channels: int, groups: int) -> tuple[tuple[int, ...], ...]:
    """Group g holds the channels i with i mod groups = g."""
    return tuple(tuple(range(g, channels, groups)) for g in range(groups))


def exchanging_plan(groups: int, exchanges: int, *, channels: int, pixels: int) -> Plan:
    """Return a plan: the input to all, stages with all-to-all exchanges between, the output."""
    shape = (1, channels, pixels)
    values = [_value("x", shape, Host()), _value("x0", shape, Replicated())]
    stages, movements = [], [Movement(source="x", target="x0", kind="input")]
    arrived = "x0"
    for index in range(exchanges + 1):
        made = f"a{index}"
        values.append(_value(made, shape, Sharded(1, chunks(channels, groups))))
        stages.append(
            Stage(function=f"stage{index}", inputs=(arrived,), weights=(), outputs=(made,))
        )
        arrived = f"b{index}"
        last = index == exchanges
        placement = Host() if last else Sharded(1, rounds(channels, groups))
        values.append(_value(arrived, shape, placement))
        kind = "output" if last else "all_to_all"
        movements.append(Movement(source=made, target=arrived, kind=kind))
    return _plan(groups, values, stages, movements, arrived)


def _value(name: str, shape: tuple[int, ...], placement: Placement) -> Value:
    return Value(name=name, shape=shape, dtype="float32", placement=placement)


def _plan(
    groups: int,
    values: Sequence[Value],
    stages: Sequence[Stage],
    movements: Sequence[Movement],
    output: str,
) -> Plan:
    return Plan(
        model="hand",
        groups=groups,
        decoupled=True,
        inputs=("x",),
        outputs=(output,),
        values=tuple(values),
        weights=(),
        stages=tuple(stages),
        movements=tuple(movements),
    )
