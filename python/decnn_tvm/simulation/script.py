# SPDX-License-Identifier: Apache-2.0
"""What a rank does for one sample, as numbers: derived from `decnn_tvm.runtime.steps` alone.

Values, movements and stages are counted as in the plan. The simulator plays scripts for thousands
of samples and devices, so they hold nothing that must be searched for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from decnn_tvm.errors import PackageError
from decnn_tvm.plan import Host, Indices, Plan, nbytes
from decnn_tvm.runtime.steps import Move, all_moves, check_host, uses_of
from decnn_tvm.runtime.wire import HEADER_BYTES
from decnn_tvm.transfers import HOST, payload_bytes


@dataclass(frozen=True, slots=True)
class Departure:
    """What happens to a value that is whole: messages, in order, and what stays here.

    Attributes
    ----------
    movement : int
        The movement.
    messages : tuple of (int, int)
        Receiver and bytes, header included.
    stays : bool
        Whether a part is for this rank itself.
    """

    movement: int
    messages: tuple[tuple[int, int], ...]
    stays: bool


@dataclass(frozen=True, slots=True)
class Script:
    """One rank's part in every sample.

    Attributes
    ----------
    sizes : tuple of int
        Bytes of each value on this rank.
    uses : tuple of int
        How often each value is read before it is freed.
    departures : tuple of tuple of Departure
        For each value.
    readers : tuple of tuple of int
        The stages that take each value.
    needs : tuple of int
        How many values each stage takes.
    inputs, outputs : tuple of tuple of int
        The values that each stage takes, repeated where it takes one twice, and gives.
    parts : dict of int to int
        How many parts each movement brings.
    targets : dict of int to int
        The value that each movement makes; an alias where it is the same tensor as its source.
    aliases : frozenset of int
        Movements that copy nothing.
    padding : tuple of int
        Values that are there from the start, since they hold padding alone.
    """

    sizes: tuple[int, ...]
    uses: tuple[int, ...]
    departures: tuple[tuple[Departure, ...], ...]
    readers: tuple[tuple[int, ...], ...]
    needs: tuple[int, ...]
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    parts: dict[int, int]
    targets: dict[int, int]
    aliases: frozenset[int]
    padding: tuple[int, ...]


def scripts_of(plan: Plan, assignment: Sequence[Indices]) -> dict[int, Script]:
    """Return the script of every rank, the coordinator's too.

    Raises
    ------
    PartitionError
        The assignment does not cover the plan's channel groups.
    PackageError
        The plan lacks a movement, or an input or output is not at the coordinator.
    """
    check_host(plan)
    moves = all_moves(plan, assignment)
    counts = {HOST: 1, **{rank: len(groups) for rank, groups in enumerate(assignment)}}
    return {rank: _script(plan, own, rank, counts[rank]) for rank, own in moves.items()}


def _script(plan: Plan, moves: Sequence[Move], rank: int, count: int) -> Script:
    index = {value.name: i for i, value in enumerate(plan.values)}
    works = rank != HOST and count > 0
    stages = plan.stages if works else ()
    uses = uses_of(plan, moves, rank) if works or rank == HOST else {}
    departures: list[list[Departure]] = [[] for _ in plan.values]
    for move in moves:
        stays = any(t.source == rank for t in move.incoming)
        if move.outgoing or stays:
            departures[index[move.source]].append(_departure(plan, move, stays))
    readers: list[list[int]] = [[] for _ in plan.values]
    for number, stage in enumerate(stages):
        for name in dict.fromkeys(stage.inputs):
            readers[index[name]].append(number)
    script = Script(
        sizes=tuple(nbytes(value, max(count, 1)) for value in plan.values),
        uses=tuple(uses.get(value.name, 0) for value in plan.values),
        departures=tuple(map(tuple, departures)),
        readers=tuple(map(tuple, readers)),
        needs=tuple(len(set(stage.inputs)) for stage in stages),
        inputs=tuple(tuple(index[name] for name in stage.inputs) for stage in stages),
        outputs=tuple(tuple(index[name] for name in stage.outputs) for stage in stages),
        parts={move.index: len(move.incoming) for move in moves if move.incoming},
        targets={move.index: index[move.target] for move in moves},
        aliases=frozenset(
            move.index for move in moves if {t.source for t in move.incoming} == {rank}
        ),
        padding=tuple(
            index[move.target]
            for move in moves
            if works
            and not move.incoming
            and not isinstance(plan.value(move.target).placement, Host)
        ),
    )
    _check_complete(plan, script)
    return script


def _departure(plan: Plan, move: Move, stays: bool) -> Departure:
    source = plan.value(move.source)
    messages = [(t.target, payload_bytes(source, t) + HEADER_BYTES) for t in move.outgoing]
    return Departure(move.index, tuple(messages), stays)


def _check_complete(plan: Plan, script: Script) -> None:
    """Raise where a stage needs a value that nothing on its rank gives."""
    given = {value for outputs in script.outputs for value in outputs} | {*script.padding}
    given |= {script.targets[movement] for movement in script.parts}
    for inputs in script.inputs:
        for value in inputs:
            if value not in given:
                raise PackageError(
                    f"plan: value {plan.values[value].name!r} is needed, but no stage or movement "
                    "before produces it. Compile the package again."
                )
