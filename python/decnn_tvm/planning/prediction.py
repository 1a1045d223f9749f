# SPDX-License-Identifier: Apache-2.0
"""What a package would give on the cluster that it was profiled on."""

from __future__ import annotations

import dataclasses

from decnn_tvm.assignment import assign_groups
from decnn_tvm.errors import InputError
from decnn_tvm.plan import Plan
from decnn_tvm.planning.speeds import measured_port, process_bytes, simulated_link, slowest_link
from decnn_tvm.profiling.profile import Profile, plan_sha256
from decnn_tvm.runtime.credentials import COORDINATOR
from decnn_tvm.simulation import Device, Machines, Outcome, simulate
from decnn_tvm.transfers import HOST


def predict(profile: Profile, plan: Plan, *, window: int, samples: int) -> Outcome:
    """Simulate a package with the stage times, links and message costs that were measured.

    Parameters
    ----------
    profile : Profile
        Of the package whose plan this is.
    plan : Plan
        The package's.
    window : int
        Samples under way.
    samples : int
        How many to simulate.

    Raises
    ------
    InputError
        The profile is of another package, or lacks a stage of it.
    """
    if profile.plan_sha256 != plan_sha256(plan):
        raise InputError(
            f"the profile is of another package of {profile.model!r}. Measure this one with "
            "`decnn profile`."
        )
    shares = [worker.groups for worker in profile.workers]
    assignment = assign_groups(plan, len(shares), shares)
    seconds = [{s.function: s.seconds for s in worker.stages} for worker in profile.workers]
    for worker, groups, known in zip(profile.workers, assignment, seconds, strict=True):
        for stage in plan.stages:
            if stage.runs_on(groups) and stage.function not in known:
                raise InputError(
                    f"the profile does not say how long {stage.function!r} takes on {worker.name}. "
                    "Measure the package again with `decnn profile`."
                )
    return simulate(
        plan,
        assignment,
        profiled_machines(profile),
        lambda rank, function: seconds[rank][function],
        window=window,
        samples=samples,
    )


def profiled_machines(profile: Profile) -> Machines:
    """Return the cluster that a profile is of, as the simulator sees it."""
    ranks = {COORDINATOR: HOST, **{w.name: rank for rank, w in enumerate(profile.workers)}}
    links = {
        (ranks[link.between[0]], ranks[link.between[1]]): simulated_link(link)
        for link in profile.links
    }
    host, *devices = (
        Device(
            name=worker.name,
            memory_bytes=process_bytes(worker),
            seconds_per_message=worker.seconds_per_message,
            seconds_per_byte=worker.seconds_per_byte,
        )
        for worker in (profile.coordinator, *profile.workers)
    )
    host = dataclasses.replace(host, port_bytes_per_second=measured_port(profile))
    return Machines(devices=tuple(devices), link=slowest_link(profile), host=host, links=links)
