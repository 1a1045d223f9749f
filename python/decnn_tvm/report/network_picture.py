# SPDX-License-Identifier: Apache-2.0
"""The network as the devices share it: who runs which stage, and what moves between stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from decnn_tvm.plan import Indices, Movement, Plan
from decnn_tvm.report.drawing import Drawing, shortened
from decnn_tvm.report.stage_words import details, heading
from decnn_tvm.transfers import payload_bytes, transfers

WIDTH, LANE, LEFT, TOP = 960.0, 34.0, 110.0, 34.0
MAX_LANES = 12
"""More devices than these are drawn as the first ones and a remark."""
MANY = 14
"""More stages than these are drawn thin, without texts."""
GAP = 0.5
"""Width of an exchange in those of a stage."""
LETTER = 5.6
"""Width of a letter of a small text."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What moves between devices before a stage: bytes of all messages, and names."""

    kinds: str
    sent: int
    names: str


def draw_network(
    plan: Plan,
    assignment: Sequence[Indices],
    names: Sequence[str],
    seconds: Sequence[dict[str, float]],
) -> str:
    """Return the picture.

    Parameters
    ----------
    plan : Plan
        The split network.
    assignment : sequence of tuple of int
        Groups of each device.
    names : sequence of str
        What the devices are called.
    seconds : sequence of dict
        For each device the time of each of its stages.
    """
    shown = range(min(len(names), MAX_LANES))
    drawing = Drawing(WIDTH, TOP + LANE * len(shown) + 58, f"Stages of {plan.model} on devices")
    unit = (WIDTH - LEFT - 10) / (len(plan.stages) * (1 + GAP) + GAP)
    bottom = TOP + LANE * len(shown)
    for place, rank in enumerate(shown):
        groups = assignment[rank]
        middle = TOP + LANE * (place + 0.5)
        drawing.text(0, middle - 1, shortened(names[rank], 16), "name")
        share = f"{len(groups)} of {plan.groups} {plan.unit}" if plan.groups > 1 else "all of it"
        drawing.text(0, middle + 11, share, "small")
        drawing.line(LEFT, middle, WIDTH - 10, middle, "lane")
    for index, stage in enumerate(plan.stages):
        x = LEFT + unit * (GAP + index * (1 + GAP))
        _exchange(drawing, exchange_before(plan, assignment, index), x - unit * GAP, unit, bottom)
        for place, rank in enumerate(shown):
            if not stage.runs_on(assignment[rank]):
                continue
            took = 1e3 * seconds[rank].get(stage.function, 0.0)
            y = TOP + LANE * place + 5
            title = f"{stage.function} on {names[rank]}: {took:.2f} ms\n"
            title += details(plan, stage, assignment[rank])
            drawing.rect(x, y, unit, LANE - 10, "stage", title, radius=3)
            if len(plan.stages) <= MANY:
                drawing.text(x + unit / 2, y + 16, f"{took:.1f} ms", "inside", "middle")
        if len(plan.stages) <= MANY:
            room = max(4, int(unit * (1 + 0.5 * GAP) / LETTER))
            text = shortened(heading(plan, stage), room)
            drawing.text(x + unit / 2, TOP - 8, text, "small", "middle")
    x = WIDTH - 10 - unit * GAP
    _exchange(drawing, exchange_before(plan, assignment, None), x, unit, bottom)
    if len(names) > MAX_LANES:
        drawing.text(LEFT, bottom + 50, f"and {len(names) - MAX_LANES} more devices", "small")
    return drawing.svg()


def _exchange(
    drawing: Drawing, found: Exchange | None, x: float, unit: float, bottom: float
) -> None:
    if found is None:
        return
    width = unit * GAP
    title = f"{found.kinds}: {found.sent / 1e3:.1f} kB in all ({found.names})"
    drawing.rect(x + 0.25 * width, TOP, 0.5 * width, bottom - TOP, "exchange", title)
    if unit * (1 + GAP) > 55:
        drawing.text(x + width / 2, bottom + 16, _size(found.sent), "small", "middle")
        drawing.text(x + width / 2, bottom + 30, found.kinds, "small", "middle")


def exchange_before(
    plan: Plan, assignment: Sequence[Indices], stage: int | None
) -> Exchange | None:
    """Return what is sent for the inputs of a stage, or for the results where `stage` is None."""
    wanted = plan.outputs if stage is None else plan.stages[stage].inputs
    moves = [movement for movement in plan.movements if movement.target in wanted]
    sizes = {str(movement): _sent(plan, assignment, movement) for movement in moves}
    moved = [movement for movement in moves if sizes[str(movement)]]
    if not moved:
        return None
    kinds = ", ".join(dict.fromkeys(m.kind.replace("_", "-") for m in moved))
    return Exchange(kinds, sum(sizes.values()), ", ".join(m.target for m in moved))


def _sent(plan: Plan, assignment: Sequence[Indices], movement: Movement) -> int:
    """Return the bytes that machines send each other for a movement."""
    value = plan.value(movement.source)
    owners = assignment
    if plan.strategy == "replicas":
        owners = tuple(groups if 0 in groups else () for groups in assignment)
    parts = transfers(plan, movement, owners)
    return sum(payload_bytes(value, part) for part in parts if part.source != part.target)


def _size(count: int) -> str:
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
