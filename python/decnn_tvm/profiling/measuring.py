# SPDX-License-Identifier: Apache-2.0
"""Measure a package on workers: stages on ready data, links, and what messages cost.

Links are timed first, one after the other and before anything is deployed, by
`decnn_tvm.doctor.link_checks.LinkProber`, and those of the coordinator once more at the same time,
which tells what its port lets through; then stages, on all workers at once, as they run; then
samples tell what messages cost (`decnn_tvm.profiling.message_costs`). A link alone on two idle
machines takes, from an empty message to an empty message, its own time and that of the processors
at both ends; the processors' clocks tell the last part. Where processors are held back (a quota), a
second of theirs takes longer; how much longer shows in the stages.
"""

from __future__ import annotations

import contextlib
import logging
import statistics
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from decnn_tvm.doctor.link_checks import LinkProber, measured_links
from decnn_tvm.errors import ClusterError
from decnn_tvm.package import Package
from decnn_tvm.profiling.message_costs import Spent, run_samples, seconds_per_cycle
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
from decnn_tvm.runtime.fleet import Fleet
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.runtime.probe import LinkSpeed
from decnn_tvm.runtime.remote_worker import RemoteWorker
from decnn_tvm.simulation.message_load import BYTE_CYCLES, MESSAGE_CYCLES
from decnn_tvm.transfers import HOST

logger = logging.getLogger(__name__)

SECONDS = 2.0
"""For the stages, by default, and as long again for samples."""
SLACK = 120.0
"""Seconds that an answer may take beyond those of the measurement."""
ALL_PAIRS = 8
"""Of more workers than these, only neighbours by rank are measured."""
AT_A_TIME = 8
"""Workers that the coordinator sends to at a time when its port is measured."""
UNMOVED = Policy(takeover=False, rejoin=False, rebalance=False)
"""What is measured belongs to one assignment of groups."""

Speeds = Mapping[tuple[int, int], LinkSpeed]
"""By sender and receiver, of which the coordinator may be one."""


def measure_profile(
    cluster: Cluster,
    package: Package,
    *,
    names: Sequence[str] | None = None,
    shares: Sequence[int] | None = None,
    target: str | Mapping[str, str] | None = None,
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
        Groups of each worker, as for `decnn_tvm.runtime.cluster.Cluster.deploy`.
    target : str or mapping, optional
        Which of the package's targets to use, for all or by address.
    seconds : float
        How long the stages are timed, and samples run.

    Raises
    ------
    ClusterError
        A worker is gone, busy, or does not answer.
    PackageError, PartitionError
        The package does not fit the workers.
    """
    names = [f"worker-{rank}" for rank in range(len(cluster.workers))] if names is None else names
    speeds, port = _measure_links(cluster), _measure_port(cluster)
    fleet = cluster.enlist(package, shares=shares, target=target, policy=UNMOVED)
    try:
        fleet.form([], 0)
        stages = _time_stages(fleet, seconds)
        spent = run_samples(fleet, package, seconds, SLACK)
        workers = tuple(
            _worker(fleet, package, rank, name, stages.get(rank, []), spent.get(rank), speeds)
            for rank, name in enumerate(names)
        )
    finally:
        fleet.close()
    called = {HOST: COORDINATOR, **dict(enumerate(names))}
    return Profile(
        model=package.plan.model,
        plan_sha256=plan_sha256(package.plan),
        workers=workers,
        coordinator=_coordinator(*_message_costs(speeds, HOST)),
        links=tuple(_links(speeds, called)),
        coordinator_bytes_per_second=port,
    )


def _measure_links(cluster: Cluster) -> Speeds:
    """Return what was measured from each machine to each, or to its neighbours among many."""
    workers = dict(enumerate(cluster.workers))
    ranks = {worker.name: rank for rank, worker in workers.items()} | {COORDINATOR: HOST}
    found: dict[tuple[int, int], LinkSpeed] = {}
    with _prober(cluster, workers) as prober:
        for source, target in prober.pairs():
            one, other = ranks[source], ranks[target]
            far = HOST not in (one, other) and abs(one - other) > 1
            if len(workers) <= ALL_PAIRS or not far:
                found[one, other] = prober.measure(source, target)
    return found


@contextlib.contextmanager
def _prober(cluster: Cluster, workers: Mapping[int, RemoteWorker]) -> Iterator[LinkProber]:
    """Open a prober, whose workers are all idle."""
    with LinkProber(
        workers, host=cluster.host, encrypt=cluster.encrypted, route=cluster.route
    ) as prober:
        if prober.refused:
            raise ClusterError("; ".join(prober.refused.values()))
        yield prober


def _measure_port(cluster: Cluster) -> float | None:
    """Return the bytes per second that this machine sends to several workers at a time.

    It is the number of workers by the least that one of them gets, since those that come last have
    the port to themselves: a port is never taken for faster than it is.
    """
    try:
        speeds = _measure_at_a_time(cluster)
    except ClusterError as error:
        logger.warning("the coordinator's port was not measured: %s", error)
        return None
    return len(speeds) * min(speed.bandwidth for speed in speeds) / 8


def _measure_at_a_time(cluster: Cluster) -> list[LinkSpeed]:
    with contextlib.ExitStack() as ends:
        # Each has an end of its own here, since an end hears one worker at a time.
        probers = [
            ends.enter_context(_prober(cluster, {rank: worker}))
            for rank, worker in enumerate(cluster.workers[:AT_A_TIME])
        ]
        pool = ends.enter_context(ThreadPoolExecutor(len(probers)))
        return list(pool.map(lambda prober: prober.measure(*prober.pairs()[0]), probers))


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


def _worker(
    fleet: Fleet,
    package: Package,
    rank: int,
    name: str,
    stages: Sequence[Mapping[str, Any]],
    spent: Spent | None,
    speeds: Speeds,
) -> WorkerProfile:
    chosen, groups = fleet.target(rank), len(fleet.assignment[rank])
    slowness = _slowness(stages)
    profiles = _stage_profiles(package, chosen, groups, stages)
    cycles = sum(stage.estimated_cycles for stage in profiles)
    scale = seconds_per_cycle(spent, stages, cycles) if spent is not None else None
    message, content = _message_costs(speeds, rank)
    if scale is not None:
        message, content = scale * MESSAGE_CYCLES, scale * BYTE_CYCLES
    return WorkerProfile(
        name=name,
        target=chosen,
        groups=groups,
        stages=profiles,
        seconds_per_message=slowness * message,
        seconds_per_byte=slowness * content,
        weight_bytes=fleet.call(rank, "status")["weight_bytes"],
        memory_bytes=fleet.memory(rank),
    )


def _message_costs(speeds: Speeds, rank: int) -> tuple[float, float]:
    """Return processor seconds per message and per byte of one machine."""
    own = [speed for (source, _), speed in speeds.items() if source == rank]
    return (
        statistics.median(speed.seconds_per_message for speed in own),
        statistics.median(speed.seconds_per_byte for speed in own),
    )


def _links(speeds: Speeds, names: Mapping[int, str]) -> Iterator[LinkProfile]:
    """Yield a link for each two machines, without what their processors take of the latency.

    A link is the same in both directions; what one direction was slower by is its sender's doing.
    """
    named = {(names[one], names[other]): speed for (one, other), speed in speeds.items()}
    for link in measured_links(named):
        assert link.between is not None
        there, back = named[link.between], named[link.between[::-1]]
        processors = there.seconds_per_message + back.seconds_per_message
        yield LinkProfile(
            between=link.between,
            bytes_per_second=max(there.bandwidth, back.bandwidth) / 8,
            latency_seconds=max(0.0, link.latency - processors),
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
