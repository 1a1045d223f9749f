# SPDX-License-Identifier: Apache-2.0
"""How fast devices and links are: measured, stated, or else from a table.

A device's speed is a clock: the cycles of `decnn_tvm.planning.layer_costs` that it does in a second
on one core. Those of processors that the table has are derived from their data sheets, unless it
says that they were measured: cycles were fitted where a core does two vector multiply-adds in one,
so a Cortex-A72 at 1.5 GHz, which does one, counts half. What was measured beats the table:
`decnn profile`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from decnn_tvm.cluster_file import ClusterFile
from decnn_tvm.errors import InputError
from decnn_tvm.planning.memory import IDLE_BYTES
from decnn_tvm.profiling.profile import LinkProfile, Profile, WorkerProfile
from decnn_tvm.runtime.credentials import COORDINATOR
from decnn_tvm.schedules.vectors import core_count
from decnn_tvm.simulation import Device, Link, Machines
from decnn_tvm.simulation.message_load import BYTE_CYCLES, MESSAGE_CYCLES
from decnn_tvm.targets import CpuTarget, resolve_target
from decnn_tvm.transfers import HOST

CLOCKS: Mapping[str, float] = MappingProxyType(
    {
        "cortex-a53": 0.6e9,  # Raspberry Pi 3: 1.2 GHz, one multiply-add a cycle
        "cortex-a57": 0.7e9,  # Jetson Nano: 1.43 GHz, one
        "cortex-a72": 0.75e9,  # Raspberry Pi 4: 1.5 GHz, one
        "cortex-a76": 2.2e9,  # Raspberry Pi 5: 2.4 GHz, two, less what memory costs
        "cortex-a78ae": 1.8e9,  # Jetson Orin: 2.0 GHz, two, the same
        "znver3": 3.4e9,  # measured: 3.2e9 to 3.6e9 on four networks, 2026-11-28
    }
)
"""Clock by LLVM's name of the processor."""
OTHER_CLOCK = 2.5e9
"""Of a processor that is not in the table: what a core of a virtual machine with AVX-512 did of the
cycles of ResNet-50 in a second, by hand on 2026-11-25."""
MANY_CORES = 0.85
"""What of further cores is left once a kernel is spread over them."""
DEFAULT_LINK = Link(bytes_per_second=940e6 / 8, latency_seconds=2e-4)
"""Gigabit Ethernet over one switch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speeds:
    """A cluster as the planner sees it.

    Attributes
    ----------
    machines : Machines
        Devices and links.
    clocks : tuple of float
        Cycles per second of each device, all cores together.
    targets : tuple of CpuTarget
        What code for each device is made for.
    measured : bool
        Whether devices and links were measured, all of them.
    estimated : tuple of str
        What a profile does not tell, in words; empty where there is none, or all was measured.
    """

    machines: Machines
    clocks: tuple[float, ...]
    targets: tuple[CpuTarget, ...]
    measured: bool
    estimated: tuple[str, ...] = ()

    def chosen(self, ranks: Sequence[int]) -> Speeds:
        """Return these devices alone, in this order."""
        return Speeds(
            machines=self.machines.chosen(tuple(ranks)),
            clocks=tuple(self.clocks[rank] for rank in ranks),
            targets=tuple(self.targets[rank] for rank in ranks),
            measured=self.measured,
            estimated=self.estimated,
        )


def cluster_speeds(
    cluster: ClusterFile,
    profile: Profile | None = None,
    memory: int | None = None,
    *,
    cores: int | None = None,
) -> Speeds:
    """Return what is known of a cluster.

    Parameters
    ----------
    cluster : ClusterFile
        Its workers and what it says of the links.
    profile : Profile, optional
        What was measured there.
    memory : int, optional
        Bytes that every worker may take, in place of what the file says.
    cores : int, optional
        Cores that kernels are spread over, in place of what the targets say; a profile's clock is
        of those it was measured with.

    Raises
    ------
    InputError
        The profile is of other workers.
    CompileError
        A worker's target can't be compiled for.
    """
    names = [worker.name for worker in cluster.workers]
    if profile is not None and {worker.name for worker in profile.workers} != {*names}:
        raise InputError(
            f"the profile is of the workers {[w.name for w in profile.workers]}, the cluster file "
            f"of {names}. Measure this cluster with `decnn profile`."
        )
    targets = {str(w.target): resolve_target(w.target, cores=cores) for w in cluster.workers}
    own = tuple(targets[str(worker.target)] for worker in cluster.workers)
    clocks, devices = [], []
    for worker, target in zip(cluster.workers, own, strict=True):
        seen = profile.worker(worker.name) if profile is not None else None
        clock = (seen.cycles_per_second if seen is not None else 0.0) or target_clock(target)
        clocks.append(clock)
        devices.append(
            Device(
                name=worker.name,
                memory_bytes=memory or worker.memory or (process_bytes(seen) if seen else None),
                seconds_per_message=seen.seconds_per_message if seen else MESSAGE_CYCLES / clock,
                seconds_per_byte=seen.seconds_per_byte if seen else BYTE_CYCLES / clock,
            )
        )
    machines = Machines(
        devices=tuple(devices),
        link=_usual_link(cluster, profile),
        host=_coordinator(cluster, profile),
        links=_links(cluster, profile),
    )
    estimated = () if profile is None else _not_measured(profile)
    return Speeds(
        machines=machines,
        clocks=tuple(clocks),
        targets=own,
        measured=profile is not None and not estimated,
        estimated=estimated,
    )


def _not_measured(profile: Profile) -> tuple[str, ...]:
    """Return what a profile does not tell of its workers, in words."""
    found = []
    clocks = [worker.name for worker in profile.workers if not worker.cycles_per_second]
    if len(clocks) > 3:
        found.append(f"the clocks of {len(clocks)} workers")
    elif clocks:
        found.append(f"the clock of {', '.join(clocks)}")
    pairs = math.comb(1 + len(profile.workers), 2)
    missing = pairs - len({frozenset(link.between) for link in profile.links})
    if missing:
        found.append(f"{missing} of {pairs} links")
    return tuple(found)


def process_bytes(seen: WorkerProfile) -> int | None:
    """Return what the process of a profiled worker may take: a session, and what it takes idle."""
    return None if seen.memory_bytes is None else seen.memory_bytes + IDLE_BYTES


def target_clock(target: CpuTarget) -> float:
    """Return the clock of a target that was not measured, its cores taken together."""
    cores = core_count(target.target)
    clock = CLOCKS.get(str(target.target.attrs.get("mcpu", "")), OTHER_CLOCK)
    return clock * (1 + MANY_CORES * (cores - 1))


def _coordinator(cluster: ClusterFile, profile: Profile | None) -> Device:
    stated = cluster.coordinator_bandwidth
    port = None if stated is None else stated / 8
    message, content = MESSAGE_CYCLES / OTHER_CLOCK, BYTE_CYCLES / OTHER_CLOCK
    if profile is not None:
        message = profile.coordinator.seconds_per_message
        content = profile.coordinator.seconds_per_byte
        # What is stated prevails: a measured port is no faster than the links that it was tried on.
        port = port or measured_port(profile)
    return Device(
        name=COORDINATOR,
        seconds_per_message=message,
        seconds_per_byte=content,
        port_bytes_per_second=port,
    )


def measured_port(profile: Profile) -> float | None:
    """Return the bytes per second of the coordinator's port; None if it is as fast as its links."""
    links = [link.bytes_per_second for link in profile.links if COORDINATOR in link.between]
    port = profile.coordinator_bytes_per_second
    return port if port is not None and port > max(links, default=0.0) else None


def _usual_link(cluster: ClusterFile, profile: Profile | None) -> Link:
    """Return what holds for pairs that nothing else is known of."""
    if profile is not None and profile.links:
        return slowest_link(profile)
    stated = next((link for link in cluster.links if link.between is None), None)
    if stated is None:
        return DEFAULT_LINK
    return Link(bytes_per_second=stated.bandwidth / 8, latency_seconds=stated.latency)


def _links(cluster: ClusterFile, profile: Profile | None) -> dict[tuple[int, int], Link]:
    ranks = {COORDINATOR: HOST, **{w.name: rank for rank, w in enumerate(cluster.workers)}}
    links = {
        (ranks[link.between[0]], ranks[link.between[1]]): Link(
            bytes_per_second=link.bandwidth / 8, latency_seconds=link.latency
        )
        for link in cluster.links
        if link.between is not None
    }
    for seen in profile.links if profile is not None else ():
        one, other = (ranks[name] for name in seen.between)
        links.pop((other, one), None)
        links[one, other] = simulated_link(seen)
    return links


def slowest_link(profile: Profile) -> Link:
    """Return the measured link of the least bandwidth, for pairs that were not measured."""
    return simulated_link(min(profile.links, key=lambda link: link.bytes_per_second))


def simulated_link(link: LinkProfile) -> Link:
    """Return a measured link as the simulator sees it."""
    return Link(bytes_per_second=link.bytes_per_second, latency_seconds=link.latency_seconds)
