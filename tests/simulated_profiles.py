# SPDX-License-Identifier: Apache-2.0
"""Clusters of made-up speeds: what `decnn profile` would measure there."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from decnn_tvm.profiling.profile import (
    COORDINATOR,
    LinkProfile,
    Profile,
    StageProfile,
    WorkerProfile,
)

CAPACITY = 1 << 30


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
    links = tuple(
        LinkProfile(between=pair, bytes_per_second=1.25e9, latency_seconds=1e-5)
        for pair in itertools.combinations([COORDINATOR, *clocks], 2)
        if pair not in without
    )
    return Profile(
        model="dense",
        plan_sha256="0" * 64,
        workers=tuple(made_worker(name, clock) for name, clock in clocks.items()),
        coordinator=made_worker(COORDINATOR, 0.0),
        links=links,
    )
