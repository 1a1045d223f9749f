# SPDX-License-Identifier: Apache-2.0
"""One rank's state over all samples: what has arrived, what is ready, what to send.

Pure bookkeeping over NumPy arrays: no thread, no socket, no clock. The coordinator is a rank
without stages, so its inputs and outputs go the same way. Over 300 lines, since one
sample's state is changed here and nowhere else.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from decnn_tvm.errors import PackageError
from decnn_tvm.plan import Indices, Plan
from decnn_tvm.runtime.arrivals import Arrival, Look
from decnn_tvm.runtime.route import Route, routes_of
from decnn_tvm.runtime.steps import Move
from decnn_tvm.runtime.tensors import Array, padding_of, payload_of
from decnn_tvm.runtime.wire import Buffer, Message, WireError
from decnn_tvm.transfers import HOST, Transfer

MAX_OPEN = 1024
"""Samples that may be open at a rank; a window is far smaller, so more means damage."""

StageRunner: TypeAlias = Callable[[str, Sequence[Array]], Sequence[Array]]
"""``runner(function, inputs) -> outputs``, in physical layout."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to send: `payload` stays valid as long as it is referenced."""

    sample: int
    movement: int
    target: int
    payload: Sequence[Buffer]


@dataclass(slots=True)
class _Sample:
    """The state of one sample."""

    route: Route
    values: dict[str, Array] = field(default_factory=dict)
    uses: dict[str, int] = field(default_factory=dict)
    awaited: dict[int, int] = field(default_factory=dict)
    arrivals: dict[int, Arrival] = field(default_factory=dict)
    stages: set[int] = field(default_factory=set)


class Executor:
    """One rank's engine.

    Parameters
    ----------
    plan : Plan
        The split network.
    assignment : sequence of tuple of int
        Channel groups of each device.
    rank : int
        This device, or `HOST`.
    live : sequence of int
        Samples below `next_sample` that are under way: a new epoch replays them.
    next_sample : int
        Samples below count as done, but for those in `live`.

    Raises
    ------
    PackageError
        The plan is inconsistent (a value nobody produces, a transfer that cuts a block).
    """

    def __init__(
        self,
        plan: Plan,
        assignment: Sequence[Indices],
        rank: int,
        *,
        live: Sequence[int] = (),
        next_sample: int = 0,
    ) -> None:
        self.plan, self.rank = plan, rank
        self._groups = assignment[rank] if rank != HOST else ()
        self._routes = routes_of(plan, assignment, rank)
        self._values = {value.name: value for value in plan.values}
        self._keep = frozenset(plan.outputs if rank == HOST else ())
        self._samples: dict[int, _Sample] = {}
        self._ready: list[tuple[int, int]] = []  # a heap; may hold what is done or dropped
        self._outbox: list[Outgoing] = []
        self._next_sample = next_sample
        self._closed_below = min(live, default=next_sample)
        self._closed = set(range(self._closed_below, next_sample)) - {*live}

    @property
    def open_samples(self) -> int:
        """How many samples are under way."""
        return len(self._samples)

    @property
    def oldest_open(self) -> int | None:
        """The oldest sample under way."""
        return min(self._samples, default=None)

    def is_last(self, sample: int, stage_index: int) -> bool:
        """Tell whether a stage is the last that this rank runs of a sample."""
        return self._route(sample).stages[-1] == stage_index

    def provide(self, sample: int, inputs: dict[str, Array]) -> None:
        """Start `sample` at the coordinator with its inputs."""
        state = self._open(sample)
        if state is None:
            raise WireError(f"sample {sample} was started before")
        self._next_sample = max(self._next_sample, sample + 1)
        for name, array in inputs.items():
            self._complete(sample, state, name, array)

    def accept(self, message: Message) -> bool:
        """Take in a message; return whether it counted (false for a sample that is done).

        Raises
        ------
        WireError
            It is not part of this plan at this rank, has the wrong size, or came twice.
        """
        header = message.header
        move = self._route(header.sample).moves.get(header.movement)
        incoming = move.incoming if move is not None else ()
        transfer = next((t for t in incoming if t.source == header.source), None)
        if move is None or transfer is None or header.source == self.rank:
            raise WireError(
                f"movement {header.movement} from {header.source}: no such transfer to {self.rank}"
            )
        if self.rank == HOST and header.sample >= self._next_sample:
            raise WireError(f"sample {header.sample} from {header.source} was never started")
        state = self._open(header.sample)
        if state is None:
            return False
        arrival = self._arrival(header.sample, state, move, transfer)
        look = state.route.looks[move.index, transfer.source, transfer.target]
        arrival.add(transfer, look, message.payload)
        self._arrived(header.sample, state, move, arrival, look)
        return True

    def next_stage(self) -> tuple[int, int] | None:
        """Return the (sample, stage index) to run now, or None where nothing is ready.

        It is the one that `oldest_first` chooses of those that are.
        """
        while self._ready:
            sample, stage = self._ready[0]
            state = self._samples.get(sample)
            if state is not None and stage in state.stages:
                return sample, stage
            heapq.heappop(self._ready)
        return None

    def run(self, sample: int, stage_index: int, runner: StageRunner) -> None:
        """Run a stage that `next_stage` returned."""
        state, stage = self._samples[sample], self.plan.stages[stage_index]
        outputs = runner(stage.function, [state.values[name] for name in stage.inputs])
        self._check_outputs(stage.function, stage.outputs, outputs)
        state.stages.discard(stage_index)
        for name, array in zip(stage.outputs, outputs, strict=True):
            self._complete(sample, state, name, array)
        for name in stage.inputs:
            self._release(state, name)
        self._close_if_done(sample, state)

    def take_outgoing(self) -> list[Outgoing]:
        """Return the messages to send since the last call."""
        outgoing, self._outbox = self._outbox, []
        return outgoing

    def take_result(self, sample: int) -> dict[str, Array] | None:
        """Return the outputs of `sample` at the coordinator, once; None while they miss."""
        state = self._samples.get(sample)
        if state is None or any(name not in state.values for name in self.plan.outputs):
            return None
        result = {name: state.values[name] for name in self.plan.outputs}
        self.drop(sample)
        return result

    def missing(self, sample: int) -> list[int]:
        """Return the ranks from which parts of `sample` have not arrived."""
        state = self._samples.get(sample)
        return sorted({r for a in state.arrivals.values() for r in a.missing}) if state else []

    def drop(self, sample: int) -> None:
        """Forget a sample; what still arrives for it is ignored."""
        self._samples.pop(sample, None)
        if sample >= self._closed_below:
            self._closed.add(sample)
        while self._closed_below in self._closed or self._is_others(self._closed_below):
            self._closed.discard(self._closed_below)
            self._closed_below += 1

    def _route(self, sample: int) -> Route:
        return self._routes[sample % len(self._routes)]

    def _is_others(self, sample: int) -> bool:
        """Tell whether a sample is another replica's, so that nothing of it will come."""
        return bool(self._groups) and not self._route(sample).stages

    def _open(self, sample: int) -> _Sample | None:
        if sample < self._closed_below or sample in self._closed:
            return None
        if sample not in self._samples:
            if len(self._samples) >= MAX_OPEN:
                raise WireError(f"sample {sample}: more than {MAX_OPEN} samples are open")
            route = self._route(sample)
            self._samples[sample] = state = _Sample(
                route=route,
                uses=dict(route.uses),
                awaited=dict(route.awaited),
                stages=set(route.stages),
            )
            self._expect(sample, state)
        return self._samples[sample]

    def _expect(self, sample: int, state: _Sample) -> None:
        for move in state.route.moves.values():
            if move.incoming:
                state.arrivals[move.index] = Arrival(move)
        for move in state.route.padding:
            value = self._values[move.target]
            array = padding_of(value, value.physical_shape(len(self._groups)))
            self._complete(sample, state, move.target, array)

    def _arrival(self, sample: int, state: _Sample, move: Move, transfer: Transfer) -> Arrival:
        arrival = state.arrivals.get(move.index)
        if arrival is None:
            raise WireError(
                f"{move.target}: the part of sample {sample} from {transfer.source} came twice"
            )
        return arrival

    def _arrived(
        self, sample: int, state: _Sample, move: Move, arrival: Arrival, look: Look
    ) -> None:
        if not arrival.missing:
            del state.arrivals[move.index]
            self._complete(sample, state, move.target, arrival.value(look.target))
            self._close_if_done(sample, state)

    def _complete(self, sample: int, state: _Sample, name: str, array: Array) -> None:
        """Note that a value is whole, and send or copy it where the plan says."""
        if state.route.uses.get(name, 0) or name in self._keep:
            state.values[name] = array
        for stage in state.route.readers.get(name, ()):
            state.awaited[stage] -= 1
            if not state.awaited[stage]:
                heapq.heappush(self._ready, (sample, stage))
        for move in state.route.moves_of.get(name, ()):
            self._emit(sample, state, move, array)

    def _emit(self, sample: int, state: _Sample, move: Move, array: Array) -> None:
        for transfer in move.outgoing:
            look = state.route.looks[move.index, transfer.source, transfer.target]
            payload = payload_of(look.source, array, transfer)
            self._outbox.append(Outgoing(sample, move.index, transfer.target, payload))
        own = next((t for t in move.incoming if t.source == self.rank), None)
        if own is not None:
            self._copy(sample, state, move, own, array)
        if move.outgoing or own is not None:
            self._release(state, move.source)

    def _copy(self, sample: int, state: _Sample, move: Move, own: Transfer, array: Array) -> None:
        look = state.route.looks[move.index, self.rank, self.rank]
        if len(move.incoming) == 1 and look.is_identity(own):
            del state.arrivals[move.index]
            self._complete(sample, state, move.target, array)
            return
        arrival = self._arrival(sample, state, move, own)
        arrival.copy(own, look, array)
        self._arrived(sample, state, move, arrival, look)

    def _release(self, state: _Sample, name: str) -> None:
        """Count one use of a value; free it after the last."""
        state.uses[name] -= 1
        if not state.uses[name] and name not in self._keep:
            state.values.pop(name, None)

    def _close_if_done(self, sample: int, state: _Sample) -> None:
        if self.rank != HOST and not state.stages and not state.arrivals:
            self.drop(sample)

    def _check_outputs(self, function: str, names: Sequence[str], outputs: Sequence[Array]) -> None:
        if len(outputs) != len(names):
            raise PackageError(
                f"stage {function!r} gave {len(outputs)} outputs; the plan says {len(names)}. "
                "Compile the package again."
            )
        for name, array in zip(names, outputs, strict=True):
            value = self._values[name]
            shape = value.physical_shape(len(self._groups))
            if array.shape != shape or array.dtype != np.dtype(value.dtype):
                raise PackageError(
                    f"stage {function!r}: output {name!r} is {array.dtype}{array.shape}; the plan "
                    f"says {value.dtype}{shape}. Compile the package again."
                )
