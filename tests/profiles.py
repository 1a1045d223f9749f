# SPDX-License-Identifier: Apache-2.0
"""Profiles as `decnn profile` writes them, with figures that are easy to reckon with."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from decnn_tvm.profiling.profile import (
    COORDINATOR,
    LinkProfile,
    Profile,
    StageProfile,
    WorkerProfile,
)

CAPACITY = 1 << 30


def made_up_profile(workers: Sequence[str], *, plan_sha256: str = "0" * 64) -> Profile:
    """Return a profile of equal workers; the last one takes twice as long for its two stages."""
    return Profile(
        model="made-up",
        plan_sha256=plan_sha256,
        workers=tuple(_worker(name, 1 + (name == workers[-1])) for name in workers),
        coordinator=_machine(COORDINATOR),
        links=_links(workers, 1e9),
    )


def _worker(name: str, times: int) -> WorkerProfile:
    shares = ({"fused_conv2d_relu": 0.75, "max_pool2d": 0.25}, {"fused_conv2d_relu": 1.0})
    stages = tuple(
        StageProfile(
            function=f"stage{index}",
            seconds=times * seconds,
            estimated_cycles=2e7 * seconds,
            kernels=kernels,
        )
        for index, (seconds, kernels) in enumerate(zip((0.3, 0.1), shares, strict=True))
    )
    return _machine(name, stages)


def _machine(name: str, stages: tuple[StageProfile, ...] = ()) -> WorkerProfile:
    return WorkerProfile(
        name=name,
        target="host" if stages else "",
        groups=1 if stages else 0,
        stages=stages,
        seconds_per_message=1e-4,
        seconds_per_byte=1e-9,
        weight_bytes=1000,
        memory_bytes=None,
    )


def made_worker(name: str, clock: float) -> WorkerProfile:
    """Return a worker whose one stage took a second; one with a clock of 0 had none."""
    stage = StageProfile(function="stage0", seconds=1.0, estimated_cycles=clock, kernels={})
    return WorkerProfile(
        name=name,
        target="host",
        groups=1 if clock else 0,
        stages=(stage,) if clock else (),
        seconds_per_message=1e-6,
        seconds_per_byte=1e-10,
        weight_bytes=0,
        memory_bytes=CAPACITY,
    )


def made_profile(clocks: Mapping[str, float], without: tuple[tuple[str, str], ...] = ()) -> Profile:
    """Return a profile of workers with these clocks, on links of 10 Gb/s but for some."""
    links = _links([*clocks], 1.25e9)
    return Profile(
        model="dense",
        plan_sha256="0" * 64,
        workers=tuple(made_worker(name, clock) for name, clock in clocks.items()),
        coordinator=made_worker(COORDINATOR, 0.0),
        links=tuple(link for link in links if link.between not in without),
    )


def _links(workers: Sequence[str], bytes_per_second: float) -> tuple[LinkProfile, ...]:
    """Return equal links between all machines, the coordinator among them."""
    return tuple(
        LinkProfile(between=pair, bytes_per_second=bytes_per_second, latency_seconds=1e-5)
        for pair in itertools.combinations((COORDINATOR, *workers), 2)
    )
