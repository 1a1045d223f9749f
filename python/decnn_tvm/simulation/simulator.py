# SPDX-License-Identifier: Apache-2.0
"""Play a plan on a model of a cluster, event by event.

The order is that of the runtime: which values go where, and in which order messages leave, comes
from `decnn_tvm.runtime.steps`, and a device takes the oldest sample's ready stage (`oldest_first`),
as `decnn_tvm.runtime.executor` does. A test plays both side by side. What is added here is time:

- A stage takes what `StageSeconds` says. What messages cost a device's processors comes off the
  stages: a stage under way ends so much later.
- A port sends one message after another, in the runtime's order (`decnn_tvm.simulation.ports`), and
  receives one after another as they began to arrive (`decnn_tvm.simulation.machines`).
- The coordinator submits a sample when fewer than `window` are under way, and results leave in
  order, as in `Session.stream`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from decnn_tvm.errors import InputError
from decnn_tvm.plan import Indices, Plan
from decnn_tvm.runtime.statistics import EventKind, TimelineEvent
from decnn_tvm.runtime.steps import oldest_first
from decnn_tvm.simulation.events import Events
from decnn_tvm.simulation.machines import Device, Machines
from decnn_tvm.simulation.network import Network, Node
from decnn_tvm.simulation.outcome import Outcome
from decnn_tvm.simulation.ports import Message
from decnn_tvm.simulation.script import Departure, Script, Scripts
from decnn_tvm.transfers import HOST

StageSeconds: TypeAlias = Callable[[int, str], float]
"""``seconds(rank, function)``: how long a device takes for a stage on ready data."""


def simulate(
    plan: Plan,
    assignment: Sequence[Indices],
    machines: Machines,
    stage_seconds: StageSeconds,
    *,
    samples: int,
    window: int,
    timeline: bool = False,
) -> Outcome:
    """Simulate a stream of samples.

    Parameters
    ----------
    plan : Plan
        The split network.
    assignment : sequence of tuple of int
        Channel groups of each device.
    machines : Machines
        The cluster; ranks are those of `assignment`.
    stage_seconds : callable
        See `StageSeconds`.
    samples : int
        How many samples.
    window : int
        How many may be under way.
    timeline : bool
        Whether to keep who did what when.

    Raises
    ------
    InputError
        There are not as many machines as devices, or no sample or window.
    PartitionError, PackageError
        The assignment or the plan is inconsistent.
    """
    if len(machines.devices) != len(assignment):
        raise InputError(
            f"simulation: {len(machines.devices)} machines for {len(assignment)} devices. "
            "Give one machine for each."
        )
    if samples < 1 or window < 1:
        raise InputError(f"simulation: samples={samples}, window={window}: expected at least 1.")
    scripts = Scripts(plan, assignment)
    return _Simulation(plan, scripts, machines, stage_seconds, window, timeline).run(samples)


class _Sample:
    """What is missing of one sample at one rank."""

    __slots__ = ("left", "needs", "parts", "script", "uses")

    def __init__(self, script: Script) -> None:
        self.script = script
        self.needs = list(script.needs)
        self.parts = dict(script.parts)
        self.uses = list(script.uses)
        self.left = len(script.stages) + len(self.parts)


class _Rank(Node):
    """One device, or the coordinator."""

    def __init__(self, device: Device) -> None:
        super().__init__(device)
        self.seconds: dict[int, float] = {}
        self.samples: dict[int, _Sample] = {}
        self.ready: set[tuple[int, int]] = set()
        self.running: tuple[int, int] | None = None
        self.choosing = False
        self.start = self.compute_seconds = 0.0
        self.held = self.peak = 0


class _Simulation:
    def __init__(
        self,
        plan: Plan,
        scripts: Scripts,
        machines: Machines,
        stage_seconds: StageSeconds,
        window: int,
        timeline: bool,
    ) -> None:
        self.plan, self.machines, self.window = plan, machines, window
        self.scripts, self.stage_seconds = scripts, stage_seconds
        ranks = (HOST, *range(len(machines.devices)))
        self.ranks = {rank: _Rank(machines.device(rank)) for rank in ranks}
        index = {value.name: i for i, value in enumerate(plan.values)}
        self.given = [index[name] for name in plan.inputs]
        self.wanted = frozenset(index[name] for name in plan.outputs)
        self.events, self.total = Events(), 0
        self.network = Network(self.events, machines, self.ranks, self._deliver, self._note)
        self.started: list[float] = []
        self.finished: dict[int, float] = {}
        self.missing: dict[int, int] = {}
        self.delivered = 0
        self.timeline: list[TimelineEvent] | None = [] if timeline else None

    def run(self, samples: int) -> Outcome:
        self.total = samples
        self._submit()
        self.events.run()
        devices = [rank for number, rank in self.ranks.items() if number != HOST]
        assert not any(rank.held for rank in devices), [rank.held for rank in devices]
        return Outcome(
            started=tuple(self.started),
            finished=tuple(self.finished[sample] for sample in range(samples)),
            window=self.window,
            compute_seconds=tuple(rank.compute_seconds for rank in devices),
            message_seconds=tuple(rank.message_seconds for rank in devices),
            ports=tuple(rank.port_load for rank in devices),
            host_message_seconds=self.ranks[HOST].message_seconds,
            host_port=self.ranks[HOST].port_load,
            buffer_bytes=tuple(rank.peak for rank in devices),
            timeline=tuple(sorted(self.timeline or (), key=lambda event: event.start)),
            events=self.events.count,
        )

    def _submit(self) -> None:
        """Submit samples until the window is full; results leave in order."""
        while self.delivered in self.finished:
            self.delivered += 1
        while len(self.started) < min(self.total, self.delivered + self.window):
            sample = len(self.started)
            self.started.append(self.events.now)
            self.missing[sample] = len(self.wanted)
            for value in self.given:
                self._complete(HOST, sample, value)

    def _open(self, rank: int, sample: int) -> _Sample:
        own = self.ranks[rank]
        state = own.samples.get(sample)
        if state is None:
            script = self.scripts.of(sample)[rank]
            state = own.samples[sample] = _Sample(script)
            for value in script.padding:
                self._complete(rank, sample, value)
        return state

    def _complete(self, rank: int, sample: int, value: int, taken: bool = False) -> None:
        """Note that a value is whole; `taken` where its memory is counted already."""
        own, state = self.ranks[rank], self._open(rank, sample)
        script = state.script
        if not taken and state.uses[value]:
            self._hold(own, script.sizes[value])
        for stage in script.readers[value]:
            state.needs[stage] -= 1
            if not state.needs[stage]:
                own.ready.add((sample, stage))
        for departure in script.departures[value]:
            for target, size in departure.messages:
                self.network.send(Message(sample, departure.movement, rank, target, size))
            if departure.stays:
                self._keep(rank, sample, departure)
            self._release(own, state, value)
        if rank == HOST and value in self.wanted:
            self._finish(sample)
        else:
            self._choose_soon(rank)

    def _keep(self, rank: int, sample: int, departure: Departure) -> None:
        """Take in the part of a value that stays here, once it is copied."""
        now = self.events.now
        done = self.ranks[rank].occupy(now, departure.copied) if departure.copied else now
        if done > now:
            self.events.at(done, self._arrive, rank, sample, departure.movement)
        else:
            self._arrive(rank, sample, departure.movement)

    def _deliver(self, message: Message) -> None:
        self._arrive(message.target, message.sample, message.movement)

    def _arrive(self, rank: int, sample: int, movement: int) -> None:
        """Take in one part of a value."""
        own, state = self.ranks[rank], self._open(rank, sample)
        script = state.script
        value, total = script.targets[movement], script.parts[movement]
        if state.parts[movement] == total and movement not in script.aliases:
            self._hold(own, script.sizes[value] if state.uses[value] else 0)
        state.parts[movement] -= 1
        if not state.parts[movement]:
            self._complete(rank, sample, value, taken=True)
            self._close_if_done(own, sample, state)

    def _choose_soon(self, rank: int) -> None:
        """Have a device choose a stage once all that comes at this moment is taken in."""
        own = self.ranks[rank]
        if own.ready and own.running is None and not own.choosing:
            own.choosing = True
            self.events.at(self.events.now, self._choose, rank, last=True)

    def _choose(self, rank: int) -> None:
        """Start the stage that the runtime would take."""
        own = self.ranks[rank]
        chosen = oldest_first(own.ready)
        assert chosen is not None
        own.choosing = False
        own.ready.discard(chosen)
        own.running, own.start = chosen, self.events.now
        # What is left to do for messages takes its part of the time.
        own.stage_end = own.start + self._seconds(rank, chosen[1]) + own.backlog(own.start)
        self.events.at(own.stage_end, self._end, rank)

    def _seconds(self, rank: int, stage: int) -> float:
        own = self.ranks[rank]
        if stage not in own.seconds:
            own.seconds[stage] = self.stage_seconds(rank, self.plan.stages[stage].function)
        return own.seconds[stage]

    def _end(self, rank: int) -> None:
        own = self.ranks[rank]
        assert own.running is not None and own.stage_end is not None
        if own.stage_end > self.events.now:
            self.events.at(own.stage_end, self._end, rank)
            return
        sample, stage = own.running
        state = own.samples[sample]
        script = state.script
        own.compute_seconds += own.seconds[stage]
        self._note(rank, "compute", sample, stage, own.start, own.stage_end)
        for value in script.outputs[stage]:
            self._complete(rank, sample, value)
        for value in script.inputs[stage]:
            self._release(own, state, value)
        self._close_if_done(own, sample, state)
        own.running = own.stage_end = None
        self._choose_soon(rank)

    def _hold(self, own: _Rank, size: int) -> None:
        own.held += size
        own.peak = max(own.peak, own.held)

    def _release(self, own: _Rank, state: _Sample, value: int) -> None:
        tensor = state.script.tensors[value]
        state.uses[tensor] -= 1
        if not state.uses[tensor]:
            own.held -= state.script.sizes[tensor]

    def _close_if_done(self, own: _Rank, sample: int, state: _Sample) -> None:
        """Forget a sample of which a stage or a movement, one at a time, was the last."""
        state.left -= 1
        if not state.left:
            own.samples.pop(sample, None)

    def _finish(self, sample: int) -> None:
        self.missing[sample] -= 1
        if not self.missing[sample]:
            self.finished[sample] = self.events.now
            self._submit()

    def _note(
        self, rank: int, kind: EventKind, sample: int, index: int, start: float, end: float
    ) -> None:
        if self.timeline is not None:
            compute = kind == "compute"
            what = self.plan.stages[index].function if compute else str(self.plan.movements[index])
            self.timeline.append(
                TimelineEvent(rank=rank, kind=kind, sample=sample, stage=what, start=start, end=end)
            )
