# SPDX-License-Identifier: Apache-2.0
"""What a rank does for one sample, as numbers: derived from `decnn_tvm.runtime.steps` alone.

Values, movements and stages are counted as in the plan. The simulator plays scripts for thousands
of samples and devices, so they hold nothing that must be searched for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from decnn_tvm.assignment import owners_of_sample
from decnn_tvm.errors import PackageError
from decnn_tvm.plan import Indices, Plan, nbytes
from decnn_tvm.runtime.steps import Move, all_moves, check_host, padding_moves, stages_of, uses_of
from decnn_tvm.runtime.wire import HEADER_BYTES
from decnn_tvm.transfers import HOST, Run, check_assignment, payload_bytes


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
    copied : int
        Bytes of that part, 0 where the value itself serves.
    """

    movement: int
    messages: tuple[tuple[int, int], ...]
    stays: bool
    copied: int


@dataclass(frozen=True, slots=True)
class Script:
    """One rank's part in every sample.

    Attributes
    ----------
    sizes : tuple of int
        Bytes of each value on this rank.
    tensors : tuple of int
        The value whose tensor each value is: itself, or what its alias was made of.
    uses : tuple of int
        How often each tensor is read before it is freed, by all of its names; 0 for an alias.
    departures : tuple of tuple of Departure
        For each value.
    readers : tuple of tuple of int
        The stages that take each value.
    stages : tuple of int
        The stages that it runs.
    needs : tuple of int
        How many values each stage of the plan takes.
    inputs, outputs : tuple of tuple of int
        The values that each takes, repeated where it takes one twice, and gives.
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
    tensors: tuple[int, ...]
    uses: tuple[int, ...]
    departures: tuple[tuple[Departure, ...], ...]
    readers: tuple[tuple[int, ...], ...]
    stages: tuple[int, ...]
    needs: tuple[int, ...]
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]
    parts: dict[int, int]
    targets: dict[int, int]
    aliases: frozenset[int]
    padding: tuple[int, ...]


class Scripts:
    """The scripts of all ranks; those of replicas differ by sample.

    Parameters
    ----------
    plan : Plan
        The split network.
    assignment : sequence of tuple of int
        Groups of each device.

    Raises
    ------
    PartitionError
        The assignment does not cover the plan's groups.
    PackageError
        The plan lacks a movement, or an input or output is not at the coordinator.
    """

    def __init__(self, plan: Plan, assignment: Sequence[Indices]) -> None:
        check_host(plan)
        check_assignment(plan, assignment)
        self._plan, self._assignment = plan, assignment
        self._counts = {HOST: 1, **{rank: len(groups) for rank, groups in enumerate(assignment)}}
        self._index = {value.name: i for i, value in enumerate(plan.values)}
        self._owners: dict[int, int] = {}
        self._made: dict[int, dict[int, Script]] = {}

    def of(self, sample: int) -> dict[int, Script]:
        """Return the scripts of the ranks that take part in a sample, the coordinator's too."""
        replicas = self._plan.strategy == "replicas"
        turn = sample % self._plan.groups if replicas else 0
        # Turns of one device are alike.
        owner = self._owner(turn) if replicas else 0
        if owner not in self._made:
            self._made[owner] = self._make(turn)
        return self._made[owner]

    def _owner(self, turn: int) -> int:
        """Return the device whose turn it is."""
        if turn not in self._owners:
            owners = owners_of_sample(self._plan, self._assignment, turn)
            self._owners[turn] = next(rank for rank, groups in enumerate(owners) if groups)
        return self._owners[turn]

    def _make(self, turn: int) -> dict[int, Script]:
        plan, assignment = self._plan, self._assignment
        owners = {HOST: (), **dict(enumerate(owners_of_sample(plan, assignment, turn)))}
        return {
            rank: _script(
                plan,
                self._index,
                moves,
                stages_of(plan, assignment, rank, turn),
                rank,
                owners[rank],
                self._counts[rank],
            )
            for rank, moves in all_moves(plan, assignment, turn).items()
        }


def _script(
    plan: Plan,
    index: Mapping[str, int],
    moves: Sequence[Move],
    stages: tuple[int, ...],
    rank: int,
    groups: Indices,
    count: int,
) -> Script:
    aliases = frozenset(move.index for move in moves if _is_alias(plan, move, rank, count))
    tensors = _tensors(len(plan.values), [m for m in moves if m.index in aliases], index)
    uses = [0] * len(plan.values)
    for name, times in uses_of(plan, moves, stages).items():
        uses[tensors[index[name]]] += times
    departures: list[list[Departure]] = [[] for _ in plan.values]
    for move in moves:
        if move.outgoing or any(t.source == rank for t in move.incoming):
            departures[index[move.source]].append(_departure(plan, move, rank, count))
    readers: list[list[int]] = [[] for _ in plan.values]
    for number in stages:
        for name in dict.fromkeys(plan.stages[number].inputs):
            readers[index[name]].append(number)
    script = Script(
        sizes=tuple(nbytes(value, count) for value in plan.values),
        tensors=tensors,
        uses=tuple(uses),
        departures=tuple(map(tuple, departures)),
        readers=tuple(map(tuple, readers)),
        stages=stages,
        needs=tuple(len(set(stage.inputs)) for stage in plan.stages),
        inputs=tuple(tuple(index[name] for name in stage.inputs) for stage in plan.stages),
        outputs=tuple(tuple(index[name] for name in stage.outputs) for stage in plan.stages),
        parts={move.index: len(move.incoming) for move in moves if move.incoming},
        targets={move.index: index[move.target] for move in moves},
        aliases=aliases,
        padding=tuple(index[move.target] for move in padding_moves(plan, moves, groups)),
    )
    _check_complete(plan, script)
    return script


def _tensors(count: int, aliases: Sequence[Move], index: Mapping[str, int]) -> Indices:
    """Return for each of `count` values the one whose tensor it is."""
    sources = {index[move.target]: index[move.source] for move in aliases}
    found = list(range(count))
    for value in sources:
        while found[value] in sources:
            found[value] = sources[found[value]]
    return tuple(found)


def _departure(plan: Plan, move: Move, rank: int, count: int) -> Departure:
    source = plan.value(move.source)
    messages = [(t.target, payload_bytes(source, t) + HEADER_BYTES) for t in move.outgoing]
    own = next((t for t in move.incoming if t.source == rank), None)
    copied = 0 if own is None or _is_alias(plan, move, rank, count) else payload_bytes(source, own)
    return Departure(move.index, tuple(messages), own is not None, copied)


def _is_alias(plan: Plan, move: Move, rank: int, count: int) -> bool:
    """Tell whether the moved value is the same tensor on this rank, so that nothing is copied."""
    if [transfer.source for transfer in move.incoming] != [rank]:
        return False
    (own,) = move.incoming
    given, wanted = (plan.value(name).local_shape(count) for name in (move.source, move.target))
    return given == wanted and own.runs == (Run(0, 0, given[own.axis]),)


def _check_complete(plan: Plan, script: Script) -> None:
    """Raise where a stage needs a value that nothing on its rank gives."""
    given = {value for stage in script.stages for value in script.outputs[stage]}
    given |= {*script.padding, *(script.targets[movement] for movement in script.parts)}
    for stage in script.stages:
        for value in script.inputs[stage]:
            if value not in given:
                raise PackageError(
                    f"plan: value {plan.values[value].name!r} is needed, but no stage or movement "
                    "before produces it. Compile the package again."
                )
