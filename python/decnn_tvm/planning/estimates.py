# SPDX-License-Identifier: Apache-2.0
"""What one way to run a network would give: simulated latency, throughput, memory and bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from decnn_tvm.assignment import assign_groups
from decnn_tvm.plan import Indices, Movement, Plan
from decnn_tvm.planning.alternatives import Alternative
from decnn_tvm.planning.memory import Memory, memory_of
from decnn_tvm.planning.simulated_work import samples_for
from decnn_tvm.planning.speeds import Speeds
from decnn_tvm.planning.splits import Split, with_wire
from decnn_tvm.simulation import PortLoad, StageSeconds, simulate
from decnn_tvm.transfers import HOST


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """One way to run a network on some devices, simulated.

    Attributes
    ----------
    alternative : Alternative
        The way.
    ranks : tuple of int
        The devices, of all in the cluster, in the order of their shares.
    shares : tuple of int
        Groups of each.
    wire : str
        Element type of exchanged activations.
    window : int
        Samples under way for the rate.
    latency_seconds : float
        Of one sample with nothing else under way.
    samples_per_second : float
        With `window` samples under way.
    memory : tuple of Memory
        Of each device, at `window`.
    ports : tuple of PortLoad
        What goes through the port of each device for a sample.
    host_port : PortLoad
        The same for the coordinator.
    exchanges : int
        Movements between devices.
    compute_seconds, message_seconds : tuple of float
        What a sample takes of each device.
    host_message_seconds : float
        What its messages take of the coordinator.
    split : Split
        The split network.
    """

    alternative: Alternative
    ranks: tuple[int, ...]
    shares: tuple[int, ...]
    wire: str
    window: int
    latency_seconds: float
    samples_per_second: float
    memory: tuple[Memory, ...]
    ports: tuple[PortLoad, ...]
    host_port: PortLoad
    exchanges: int
    compute_seconds: tuple[float, ...]
    message_seconds: tuple[float, ...]
    host_message_seconds: float
    split: Split

    @property
    def plan(self) -> Plan:
        """The plan with its wire type."""
        return with_wire(self.split.plan, self.wire)

    @property
    def assignment(self) -> tuple[Indices, ...]:
        """Groups of each device."""
        return assign_groups(self.split.plan, len(self.shares), self.shares)

    @property
    def sent_bytes(self) -> tuple[float, ...]:
        """What each device sends for a sample."""
        return tuple(port.sent_bytes for port in self.ports)

    @property
    def busiest_port(self) -> tuple[int, PortLoad]:
        """The device, or `HOST`, whose port is busy longest with a sample, and that port."""
        ports = [(HOST, self.host_port), *zip(self.ranks, self.ports, strict=True)]
        return max(ports, key=lambda each: each[1].busy_seconds)


def estimate(
    alternative: Alternative,
    split: Split,
    shares: tuple[int, ...],
    speeds: Speeds,
    ranks: Sequence[int],
    wire: str,
    window: int,
) -> Estimate:
    """Simulate one way; `speeds` is of the whole cluster, of which `ranks` take part."""
    own = speeds.chosen(ranks)
    assignment = assign_groups(split.plan, len(shares), shares)
    plan, seconds = with_wire(split.plan, wire), stage_seconds(split, assignment, own)
    alone = simulate(plan, assignment, own.machines, seconds, samples=1, window=1)
    stream = simulate(
        plan,
        assignment,
        own.machines,
        seconds,
        samples=samples_for(window),
        window=window,
    )
    return Estimate(
        alternative=alternative,
        ranks=tuple(ranks),
        shares=shares,
        wire=wire,
        window=window,
        latency_seconds=alone.latency_seconds,
        samples_per_second=stream.samples_per_second,
        memory=memory_of(split, assignment, own.targets, stream),
        ports=tuple(port.of_one(stream.samples) for port in stream.ports),
        host_port=stream.host_port.of_one(stream.samples),
        exchanges=len(exchanges_of(plan)),
        compute_seconds=tuple(s / stream.samples for s in stream.compute_seconds),
        message_seconds=tuple(s / stream.samples for s in stream.message_seconds),
        host_message_seconds=stream.host_message_seconds / stream.samples,
        split=split,
    )


def exchanges_of(plan: Plan) -> list[Movement]:
    """Return the movements between devices."""
    return [m for m in plan.movements if m.kind not in ("input", "output", "local")]


def stage_seconds(split: Split, assignment: Sequence[Indices], speeds: Speeds) -> StageSeconds:
    """Return how long each device of `speeds` takes for a stage."""
    cycles = [
        split.cycles(target, len(groups))
        for target, groups in zip(speeds.targets, assignment, strict=True)
    ]
    return lambda rank, function: cycles[rank][function] / speeds.clocks[rank]
