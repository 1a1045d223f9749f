# SPDX-License-Identifier: Apache-2.0
"""What one rank does for one sample: printable data, made without any device.

The steps of a rank follow from the plan and the assignment alone::

    receive x from host
    compute stage0: x -> a
    send a -> b to 1, 2
    copy a -> b
    receive b from 1, 2
    compute stage1: b -> y

Of replicas each runs the samples whose turn it has, and the steps of any other sample are none.

A rank runs several samples at once. Of the stages that are ready it takes the one of the oldest
sample (`oldest_first`), so that results leave in order and the window moves on.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from decnn_tvm.assignment import owners_of_sample
from decnn_tvm.errors import PackageError
from decnn_tvm.plan import Host, Indices, Plan, Stage, holds
from decnn_tvm.runtime.wire import MAX_ERROR
from decnn_tvm.transfers import HOST, Transfer, check_assignment, transfers


@dataclass(frozen=True, slots=True)
class Move:
    """The part of one movement that concerns one rank.

    Attributes
    ----------
    index : int
        Place in ``plan.movements``.
    source, target : str
        Value names.
    outgoing : tuple of Transfer
        To other ranks.
    incoming : tuple of Transfer
        From any rank, by sender; one from the rank itself is a local copy.
    """

    index: int
    source: str
    target: str
    outgoing: tuple[Transfer, ...]
    incoming: tuple[Transfer, ...]


@dataclass(frozen=True, slots=True)
class Receive:
    """Wait for a value."""

    move: Move

    def __str__(self) -> str:
        senders = [t.source for t in self.move.incoming if t.source != t.target]
        return f"receive {self.move.target} from {_ranks(senders)}"


@dataclass(frozen=True, slots=True)
class Compute:
    """Run a stage."""

    stage: Stage

    def __str__(self) -> str:
        return (
            f"compute {self.stage.function}: "
            f"{', '.join(self.stage.inputs)} -> {', '.join(self.stage.outputs)}"
        )


@dataclass(frozen=True, slots=True)
class Send:
    """Send a value's parts to other ranks."""

    move: Move

    def __str__(self) -> str:
        targets = _ranks(t.target for t in self.move.outgoing)
        return f"send {self.move.source} -> {self.move.target} to {targets}"


@dataclass(frozen=True, slots=True)
class Copy:
    """Copy what a rank sends to itself."""

    move: Move

    def __str__(self) -> str:
        return f"copy {self.move.source} -> {self.move.target}"


Step = Receive | Compute | Send | Copy


def moves_of(
    plan: Plan, assignment: Sequence[Indices], rank: int, sample: int = 0
) -> tuple[Move, ...]:
    """Return the movements of a sample that `rank` takes part in, in the plan's order.

    One whose target on this rank is padding alone has no transfers, and counts.
    """
    return all_moves(plan, assignment, sample).get(rank, ())


def all_moves(
    plan: Plan, assignment: Sequence[Indices], sample: int = 0
) -> dict[int, tuple[Move, ...]]:
    """Return the movements of every rank that takes part in a sample; see `moves_of`."""
    check_assignment(plan, assignment)
    owners = owners_of_sample(plan, assignment, sample)
    moves: dict[int, list[Move]] = {}
    for index, movement in enumerate(plan.movements):
        outgoing, incoming = defaultdict(list), defaultdict(list)
        for transfer in transfers(plan, movement, owners):
            incoming[transfer.target].append(transfer)
            if transfer.source != transfer.target:
                outgoing[transfer.source].append(transfer)
        placement = plan.value(movement.target).placement
        holders = (rank for rank, groups in enumerate(owners) if holds(placement, groups))
        for rank in {*outgoing, *incoming, *holders}:
            sent = tuple(outgoing.get(rank, ()))
            got = sorted(incoming.get(rank, ()), key=lambda t: (t.source, t.target))
            move = Move(index, movement.source, movement.target, sent, tuple(got))
            moves.setdefault(rank, []).append(move)
    return {rank: tuple(own) for rank, own in moves.items()}


def stages_of(
    plan: Plan, assignment: Sequence[Indices], rank: int, sample: int = 0
) -> tuple[int, ...]:
    """Return the places in ``plan.stages`` of what `rank` computes of a sample, in order."""
    groups = owners_of_sample(plan, assignment, sample)[rank] if rank != HOST else ()
    return tuple(i for i, stage in enumerate(plan.stages) if stage.runs_on(groups))


def largest_payload(plan: Plan) -> int:
    """Return a bound on the payload of a message: the bytes of the largest value as float32."""
    sizes = (
        math.prod(value.local_shape(plan.groups)) * max(4, np.dtype(value.dtype).itemsize)
        for value in plan.values
    )
    return max(MAX_ERROR, *sizes)


def steps_of(plan: Plan, assignment: Sequence[Indices], rank: int, sample: int = 0) -> list[Step]:
    """Return the steps of a sample on `rank`, in order.

    Samples differ among replicas alone.

    Raises
    ------
    PackageError
        A stage needs a value that nothing produces.
    """
    moves = moves_of(plan, assignment, rank, sample)
    steps: list[Step] = []
    ready: set[str] = set()
    if rank == HOST:
        for name in plan.inputs:
            _settle(name, moves, steps, ready)
        steps += [Receive(m) for m in moves if m.target in plan.outputs]
        return steps
    for stage in (plan.stages[i] for i in stages_of(plan, assignment, rank, sample)):
        for name in stage.inputs:
            _obtain(name, moves, steps, ready)
        steps.append(Compute(stage))
        for name in stage.outputs:
            _settle(name, moves, steps, ready)
    return steps


def _obtain(name: str, moves: Sequence[Move], steps: list[Step], ready: set[str]) -> None:
    if name in ready:
        return
    move = next((m for m in moves if m.target == name), None)
    if move is None:
        raise PackageError(
            f"plan: value {name!r} is needed, but no stage or movement before produces it. "
            "Compile the package again."
        )
    if any(t.source != t.target for t in move.incoming):
        steps.append(Receive(move))
    _settle(name, moves, steps, ready)


def _settle(name: str, moves: Sequence[Move], steps: list[Step], ready: set[str]) -> None:
    """Note that a value is there, and send it where it is needed."""
    ready.add(name)
    for move in (m for m in moves if m.source == name):
        if move.outgoing:
            steps.append(Send(move))
        if any(t.source == t.target for t in move.incoming):
            steps.append(Copy(move))
            if all(t.source == t.target for t in move.incoming):
                _settle(move.target, moves, steps, ready)


def padding_moves(plan: Plan, moves: Iterable[Move], groups: Indices) -> tuple[Move, ...]:
    """Return the movements that bring the owner of `groups` padding alone."""
    return tuple(
        move
        for move in moves
        if not move.incoming and holds(plan.value(move.target).placement, groups)
    )


def uses_of(plan: Plan, moves: Iterable[Move], stages: Iterable[int]) -> dict[str, int]:
    """Return how often a rank reads each value for one sample, to free it afterwards.

    Parameters
    ----------
    plan : Plan
        The split network.
    moves, stages
        What the rank takes part in; see `moves_of` and `stages_of`.
    """
    uses: dict[str, int] = {}
    for stage in (plan.stages[i] for i in stages):
        for name in stage.inputs:
            uses[name] = uses.get(name, 0) + 1
    for move in moves:
        if move.outgoing or any(t.source == t.target for t in move.incoming):
            uses[move.source] = uses.get(move.source, 0) + 1
    return uses


def oldest_first(ready: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
    """Choose among ready (sample, stage index) pairs: the oldest sample, its earliest stage."""
    return min(ready, default=None)


def check_host(plan: Plan) -> None:
    """Check that the plan's inputs and outputs live at the coordinator."""
    for name in (*plan.inputs, *plan.outputs):
        if not isinstance(plan.value(name).placement, Host):
            raise PackageError(
                f"plan: {name!r} is an input or output but is not placed at the coordinator. "
                "Compile the package again."
            )


def _ranks(ranks: Iterable[int]) -> str:
    return ", ".join("host" if rank == HOST else str(rank) for rank in ranks)
