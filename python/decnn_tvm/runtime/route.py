# SPDX-License-Identifier: Apache-2.0
"""What one rank does for the samples that go one way.

All samples go the same way, except over replicas, where each goes to the device whose turn it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from decnn_tvm.assignment import owners_of_sample, turn_order
from decnn_tvm.plan import Indices, Plan
from decnn_tvm.runtime.arrivals import Look
from decnn_tvm.runtime.steps import Move, moves_of, padding_moves, stages_of, steps_of, uses_of
from decnn_tvm.transfers import HOST, payload_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The movements and stages of a rank, looked up ahead.

    Attributes
    ----------
    stages : tuple of int
        What it computes: places in ``plan.stages``.
    moves : mapping of int to Move
        The movements it takes part in, by their place in ``plan.movements``.
    moves_of : mapping of str to list of Move
        The same, by the value that is moved.
    uses : mapping of str to int
        How often each value is read.
    looks : mapping of (movement, sender, receiver) to Look
        How each transfer sees its tensors.
    padding : tuple of Move
        Movements that bring this rank padding alone.
    readers : mapping of str to tuple of int
        The stages that read each value.
    awaited : mapping of int to int
        How many values each stage reads.
    """

    stages: tuple[int, ...]
    moves: Mapping[int, Move]
    moves_of: Mapping[str, Sequence[Move]]
    uses: Mapping[str, int]
    looks: Mapping[tuple[int, int, int], Look]
    padding: tuple[Move, ...]
    readers: Mapping[str, tuple[int, ...]]
    awaited: Mapping[int, int]

    @staticmethod
    def of(plan: Plan, assignment: Sequence[Indices], rank: int, sample: int) -> Route:
        """Return the route of `sample`.

        Raises
        ------
        PackageError
            The plan is inconsistent (a value nobody produces, a transfer that cuts a block).
        """
        steps_of(plan, assignment, rank, sample)  # finds what nobody produces
        moves = moves_of(plan, assignment, rank, sample)
        stages = stages_of(plan, assignment, rank, sample)
        groups = owners_of_sample(plan, assignment, sample)[rank] if rank != HOST else ()
        values = {value.name: value for value in plan.values}
        counts = {HOST: 1, **{d: len(groups) for d, groups in enumerate(assignment)}}
        by_source: dict[str, list[Move]] = {}
        for move in moves:
            by_source.setdefault(move.source, []).append(move)
        reads = {stage: dict.fromkeys(plan.stages[stage].inputs) for stage in stages}
        readers: dict[str, tuple[int, ...]] = {}
        for stage, names in reads.items():
            for name in names:
                readers[name] = (*readers.get(name, ()), stage)
        return Route(
            stages=stages,
            moves={move.index: move for move in moves},
            moves_of=by_source,
            uses=uses_of(plan, moves, stages),
            looks={
                (move.index, transfer.source, transfer.target): Look.of(
                    values, counts, move, transfer
                )
                for move in moves
                for transfer in (*move.outgoing, *move.incoming)
            },
            padding=padding_moves(plan, moves, groups),
            readers=readers,
            awaited={stage: len(names) for stage, names in reads.items()},
        )


def largest_messages(plan: Plan, assignment: Sequence[Indices], rank: int) -> dict[int, int]:
    """Return the bytes of the largest message that a rank gets from each of the others."""
    values = {value.name: value for value in plan.values}
    turns = len(turn_order(assignment)) if plan.strategy == "replicas" else 1
    found: dict[int, int] = {}
    for sample in range(turns):
        for move in moves_of(plan, assignment, rank, sample):
            for transfer in move.incoming:
                if transfer.source != rank:
                    size = payload_bytes(values[move.source], transfer)
                    found[transfer.source] = max(size, found.get(transfer.source, 0))
    return found


def routes_of(plan: Plan, assignment: Sequence[Indices], rank: int) -> list[Route]:
    """Return the routes that samples take in turn; there is one, but for replicas.

    Raises
    ------
    PackageError
        The plan is inconsistent.
    """
    order = turn_order(assignment) if plan.strategy == "replicas" else (0,)
    routes = {owner: Route.of(plan, assignment, rank, order.index(owner)) for owner in {*order}}
    return [routes[owner] for owner in order]
