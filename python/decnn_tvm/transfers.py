# SPDX-License-Identifier: Apache-2.0
"""From placements to transfers: who sends which elements of a tensor to whom.

All-to-all, all-gather, reduce-scatter, broadcast and collection are one computation here: every
position that a receiver needs is looked up among the owners of that element, the receiver first.
Nothing here does I/O.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from decnn_tvm.errors import PartitionError
from decnn_tvm.plan import (
    PAD,
    WIRE_BYTES,
    Host,
    Indices,
    Movement,
    Partial,
    Plan,
    Sharded,
    Strips,
    Value,
    held,
    holds,
)

HOST = -1
"""The coordinator's place in a transfer; devices count from 0."""


@dataclass(frozen=True, slots=True)
class Run:
    """`length` elements along the moved axis, from `source` on, land from `target` on."""

    source: int
    target: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """What one participant sends to another for one movement.

    A message is the concatenation of its runs. `source` equal to `target` is a local copy.
    With `reduce`, receivers add what arrives; otherwise every element arrives once.
    """

    source: int
    target: int
    axis: int
    runs: tuple[Run, ...]
    reduce: bool


def payload_bytes(value: Value, transfer: Transfer) -> int:
    """Return the bytes that a transfer moves of `value`, its source; a header comes on top."""
    elements = math.prod(value.shape) // value.shape[transfer.axis]
    return elements * sum(run.length for run in transfer.runs) * WIRE_BYTES[value.dtype]


def check_assignment(plan: Plan, assignment: Sequence[Indices]) -> None:
    """Check that every group has exactly one device; a device without groups is a spare.

    Strips of one device must be neighbours.

    Raises
    ------
    PartitionError
        Naming the groups, what was assigned, and the remedy.
    """
    assigned = sorted(group for groups in assignment for group in groups)
    if assigned != list(range(plan.groups)):
        raise PartitionError(
            f"assignment {list(assignment)} of {plan.model!r}: each of the {plan.groups} "
            f"{plan.unit} needs exactly one device."
        )
    for groups in assignment if plan.strategy == "rows" else ():
        if groups and max(groups) - min(groups) != len(groups) - 1:
            raise PartitionError(
                f"assignment {list(assignment)} of {plan.model!r}: the row strips {list(groups)} "
                "of one device are no neighbours."
            )


def transfers(plan: Plan, movement: Movement, assignment: Sequence[Indices]) -> list[Transfer]:
    """Return the transfers of `movement` when device d owns the groups ``assignment[d]``.

    Local copies come first, then by receiver and sender.
    """
    source, target = plan.value(movement.source), plan.value(movement.target)
    axis = _axis(source, target)
    sources = _layouts(source, axis, assignment)
    needed = _layouts(target, axis, assignment)
    reduce = isinstance(source.placement, Partial)
    result = []
    for receiver, wanted in needed.items():
        pairs = _reduce_pairs(wanted, sources) if reduce else _copy_pairs(receiver, wanted, sources)
        for sender, positions in pairs.items():
            runs = tuple(_runs(positions))
            if runs:
                result.append(
                    Transfer(source=sender, target=receiver, axis=axis, runs=runs, reduce=reduce)
                )
    return sorted(result, key=lambda t: (t.source != t.target, t.target, t.source))


def _axis(source: Value, target: Value) -> int:
    for value in (source, target):
        if isinstance(value.placement, Sharded | Strips):
            return value.placement.axis
    return min(1, len(source.shape) - 1)


def _layouts(value: Value, axis: int, assignment: Sequence[Indices]) -> dict[int, Indices]:
    """Return for each participant that holds `value` the global indices it holds, in order."""
    placement, extent = value.placement, value.shape[axis]
    if isinstance(placement, Host):
        return {HOST: tuple(range(extent))}
    return {
        device: held(placement, extent, groups)
        for device, groups in enumerate(assignment)
        if holds(placement, groups)
    }


_Positions = list[tuple[int, int]]


def _copy_pairs(
    receiver: int, wanted: Indices, sources: dict[int, Indices]
) -> dict[int, _Positions]:
    where: dict[int, tuple[int, int]] = {}
    for sender in sorted(sources, key=lambda s: s != receiver):
        for position, index in enumerate(sources[sender]):
            if index != PAD:
                where.setdefault(index, (sender, position))
    pairs: dict[int, _Positions] = {}
    for position, index in enumerate(wanted):
        if index != PAD:
            sender, origin = where[index]
            pairs.setdefault(sender, []).append((origin, position))
    return pairs


def _reduce_pairs(wanted: Indices, sources: dict[int, Indices]) -> dict[int, _Positions]:
    positions = [(index, position) for position, index in enumerate(wanted) if index != PAD]
    return {sender: positions for sender in sources}


def _runs(positions: Iterable[tuple[int, int]]) -> Iterable[Run]:
    start: tuple[int, int] | None = None
    length = 0
    for source, target in positions:
        if start and (source, target) == (start[0] + length, start[1] + length):
            length += 1
            continue
        if start:
            yield Run(*start, length)
        start, length = (source, target), 1
    if start:
        yield Run(*start, length)
