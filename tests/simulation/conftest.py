# SPDX-License-Identifier: Apache-2.0
"""Plans written by hand, with sizes that are easy to reckon with."""

from __future__ import annotations

from collections.abc import Sequence

from decnn_tvm.plan import (
    Host,
    Movement,
    Owned,
    Placement,
    Plan,
    Replicated,
    Sharded,
    Stage,
    Strategy,
    Value,
)

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


def pipeline_plan(channels: Sequence[int], *, pixels: int) -> Plan:
    """Return a pipeline: each stage reads what the one before gives, and the last the first's too.

    `channels` are those of each stage's output; the input has those of the first.
    """
    last = len(channels) - 1
    values = [
        _value("x", (1, channels[0], pixels), Host()),
        _value("x0", (1, channels[0], pixels), Owned(0)),
    ]
    stages, movements = [], [Movement(source="x", target="x0", kind="input")]

    def move(source: int, target: int) -> str:
        name = f"a{source}.{target}"
        values.append(_value(name, (1, channels[source], pixels), Owned(target)))
        movements.append(Movement(source=f"a{source}", target=name, kind="point_to_point"))
        return name

    for index, count in enumerate(channels):
        read = [move(index - 1, index)] if index else ["x0"]
        if index == last > 1:
            read.append(move(0, index))
        values.append(_value(f"a{index}", (1, count, pixels), Owned(index)))
        stages.append(
            Stage(
                function=f"stage{index}",
                inputs=tuple(read),
                weights=(),
                outputs=(f"a{index}",),
                group=index,
            )
        )
    values.append(_value("y", (1, channels[last], pixels), Host()))
    movements.append(Movement(source=f"a{last}", target="y", kind="output"))
    return _plan(len(channels), values, stages, movements, "y", "pipeline")


def _value(name: str, shape: tuple[int, ...], placement: Placement) -> Value:
    return Value(name=name, shape=shape, dtype="float32", placement=placement)


def _plan(
    groups: int,
    values: Sequence[Value],
    stages: Sequence[Stage],
    movements: Sequence[Movement],
    output: str,
    strategy: Strategy = "channels",
) -> Plan:
    return Plan(
        model="hand",
        groups=groups,
        decoupled=strategy == "channels",
        inputs=("x",),
        outputs=(output,),
        values=tuple(values),
        weights=(),
        stages=tuple(stages),
        movements=tuple(movements),
        strategy=strategy,
    )
