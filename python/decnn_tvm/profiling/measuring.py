# SPDX-License-Identifier: Apache-2.0
"""Measure a package on workers: stages on ready data, links, and what messages cost.

Stages are timed on all workers at once, as they run. Links are timed one after the other, since
what shares a port slows each other, by probes (`decnn_tvm.runtime.probing`): a probe of n bytes and
its empty answer take

    2 latency + n / bandwidth + what the processors do at both ends

and the processors' clocks tell the last part. Where processors are held back (a quota), a second of
theirs takes longer; how much longer shows in the stages.
"""

from __future__ import annotations

import itertools
import statistics
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decnn_tvm.package import Package
from decnn_tvm.profiling.profile import (
    COORDINATOR,
    LinkProfile,
    Profile,
    StageProfile,
    WorkerProfile,
    plan_sha256,
)
from decnn_tvm.runtime.calls import call_all
from decnn_tvm.runtime.cluster import Cluster
from decnn_tvm.runtime.engine import Link
from decnn_tvm.runtime.fleet import Fleet
from decnn_tvm.runtime.machine import choose_target
from decnn_tvm.runtime.probing import Probes
from decnn_tvm.runtime.steps import largest_payload
from decnn_tvm.transfers import HOST

SECONDS = 2.0
"""For the stages, by default."""
SLACK = 120.0
"""Seconds that an answer may take beyond those of the measurement."""
PROBE_BYTES = 1 << 20
SMALL, LARGE = 24, 6
"""Probes without and with payload on each link."""
ALL_PAIRS = 8
"""Of more workers than these, only neighbours by rank are probed."""
LEAST_WIRE = 0.2
"""Part of a message's time that is the link's at least, however much the processors' clocks say."""


def measure_profile(
    cluster: Cluster,
    package: Package,
    *,
    names: Sequence[str] | None = None,
    shares: Sequence[int] | None = None,
    target: str | None = None,
    seconds: float = SECONDS,
) -> Profile:
    """Deploy a package to workers that are idle, measure, and leave them idle again.

    Parameters
    ----------
    cluster : Cluster
        The workers.
    package : Package
        What they run.
    names : sequence of str, optional
        What the profile calls the workers, by rank.
    shares : sequence of int, optional
        Groups of each worker; as even as possible by default.
    target : str, optional
        Which of the package's targets to use.
    seconds : float
        How long the stages are timed.

    Raises
    ------
    ClusterError
        A worker is gone, busy, or does not answer.
    PackageError, PartitionError
        The package does not fit the workers.
    """
    names = [f"worker{rank}" for rank in range(len(cluster.workers))] if names is None else names
    fleet = cluster.enlist(package, shares=shares, target=target)
    try:
        link = fleet.form([], 0)
        stages = _time_stages(fleet, seconds)
        slowness = {rank: _slowness(found) for rank, found in stages.items()}
        size = min(PROBE_BYTES, largest_payload(package.plan))
        probes = _probe_links(fleet, link, size, [*stages])
        cost = _message_costs(probes, slowness)
        machines = [worker.machine() for worker in cluster.workers]
        targets = [
            choose_target(package.manifest, machine, name, target)
            for machine, name in zip(machines, names, strict=True)
        ]
        workers = tuple(
            WorkerProfile(
                name=name,
                target=targets[rank],
                groups=len(fleet.assignment[rank]),
                stages=_stage_profiles(
                    package, targets[rank], len(fleet.assignment[rank]), stages.get(rank, [])
                ),
                seconds_per_message=cost[rank][0],
                seconds_per_byte=cost[rank][1],
                weight_bytes=fleet.status(rank)["weight_bytes"],
                memory_bytes=fleet.memory(rank),
            )
            for rank, name in enumerate(names)
        )
    finally:
        fleet.close()
    return Profile(
        model=package.plan.model,
        plan_sha256=plan_sha256(package.plan),
        workers=workers,
        coordinator=_coordinator(*cost[HOST]),
        links=tuple(_link(probe, names, cost) for probe in probes),
    )


def _time_stages(fleet: Fleet, seconds: float) -> Mapping[int, list[dict[str, Any]]]:
    """Return what each worker that owns groups says of its stages."""

    def ask(rank: int, _: threading.Event) -> list[dict[str, Any]]:
        milliseconds = round(1e3 * seconds)
        found: list[dict[str, Any]] = fleet.call(
            rank, "time_stages", milliseconds, timeout=seconds + SLACK
        )
        return found

    ranks = [rank for rank, groups in enumerate(fleet.assignment) if groups]
    answers = call_all(ranks, ask, lambda _: None, all_or_none=False)
    for error in answers.errors.values():
        raise error
    return answers.results


def _slowness(stages: Sequence[Mapping[str, float]]) -> float:
    """Return the seconds that a second of the processors takes."""
    processor = sum(stage["processor_seconds"] for stage in stages)
    return sum(stage["seconds"] for stage in stages) / processor if processor else 1.0


@dataclass(frozen=True, slots=True)
class _Probe:
    """What probes between two ranks took: medians to the answer, processor seconds of each."""

    one: int
    other: int
    size: int
    empty_seconds: float
    full_seconds: float
    empty_processor: tuple[float, float]
    full_processor: tuple[float, float]


def _probe_links(fleet: Fleet, link: Link, size: int, ranks: Sequence[int]) -> list[_Probe]:
    pairs = list(itertools.combinations(ranks, 2))
    if len(ranks) > ALL_PAIRS:
        pairs = list(zip(ranks, ranks[1:], strict=False))
    own = _own_probes(link)

    def from_host(target: int, size: int, count: int) -> dict[str, Any]:
        return own.measure(target, size, count)

    def from_worker(rank: int) -> Callable[[int, int, int], dict[str, Any]]:
        return lambda *args: fleet.call(rank, "probe", *args, timeout=SLACK)  # type: ignore[no-any-return]

    found = [_probe(fleet, HOST, rank, size, from_host) for rank in ranks]
    return found + [_probe(fleet, one, other, size, from_worker(one)) for one, other in pairs]


def _own_probes(link: Link) -> Probes:
    def receive() -> None:
        message = link.receive(0.05)
        if message is not None:
            probes.take(message)

    probes = Probes(link.send, receive)
    return probes


def _probe(
    fleet: Fleet,
    one: int,
    other: int,
    size: int,
    measure: Callable[[int, int, int], dict[str, Any]],
) -> _Probe:
    measure(other, size, 1)  # connections are made, and memory is taken, once
    runs = []
    for length, count in ((0, SMALL), (size, LARGE)):
        before = fleet.call(other, "processor_seconds")
        found = measure(other, length, count)
        after = fleet.call(other, "processor_seconds")
        processor = (found["processor_seconds"] / count, (after - before) / count)
        runs.append((statistics.median(found["seconds"]), processor))
    (empty, empty_processor), (full, full_processor) = runs
    return _Probe(one, other, size, empty, full, empty_processor, full_processor)


def _message_costs(
    probes: Sequence[_Probe], slowness: Mapping[int, float]
) -> dict[int, tuple[float, float]]:
    """Return seconds per message and per byte of each rank, as they come off its stages."""
    messages: dict[int, list[float]] = {}
    contents: dict[int, list[float]] = {}
    for probe in probes:
        for side, rank in enumerate((probe.one, probe.other)):
            empty, full = probe.empty_processor[side], probe.full_processor[side]
            # A question and its answer are two messages at either end.
            messages.setdefault(rank, []).append(empty / 2)
            contents.setdefault(rank, []).append(max(0.0, full - empty) / probe.size)
    return {
        rank: tuple(
            slowness.get(rank, 1.0) * statistics.median(x[rank]) for x in (messages, contents)
        )  # type: ignore[misc]
        for rank in messages
    }


def _link(
    probe: _Probe, names: Sequence[str], cost: Mapping[int, tuple[float, float]]
) -> LinkProfile:
    ends = [COORDINATOR if rank == HOST else names[rank] for rank in (probe.one, probe.other)]
    processors = sum(
        max(0.0, full - empty)
        for empty, full in zip(probe.empty_processor, probe.full_processor, strict=True)
    )
    content = max(probe.full_seconds - probe.empty_seconds, 1e-9)
    wire = max(content - processors, LEAST_WIRE * content)
    latency = max(0.0, probe.empty_seconds - sum(probe.empty_processor)) / 2
    return LinkProfile(
        between=(ends[0], ends[1]),
        bytes_per_second=probe.size / wire,
        latency_seconds=latency,
    )


def _stage_profiles(
    package: Package, target: str, groups: int, stages: Sequence[Mapping[str, Any]]
) -> tuple[StageProfile, ...]:
    cycles = package.estimated_cycles(target, groups)
    return tuple(
        StageProfile(
            function=stage["function"],
            seconds=stage["seconds"],
            estimated_cycles=cycles.get(stage["function"], 0.0),
            kernels=dict(stage["kernels"]),
        )
        for stage in stages
    )


def _coordinator(seconds_per_message: float, seconds_per_byte: float) -> WorkerProfile:
    return WorkerProfile(
        name=COORDINATOR,
        target="",
        groups=0,
        stages=(),
        seconds_per_message=seconds_per_message,
        seconds_per_byte=seconds_per_byte,
        weight_bytes=0,
        memory_bytes=None,
    )
