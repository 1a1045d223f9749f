# SPDX-License-Identifier: Apache-2.0
"""A profile as `decnn profile` writes it, with figures that are easy to reckon with."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from decnn_tvm.profiling.profile import (
    COORDINATOR,
    LinkProfile,
    Profile,
    StageProfile,
    WorkerProfile,
)


def made_up_profile(workers: Sequence[str], *, plan_sha256: str = "0" * 64) -> Profile:
    """Return a profile of equal workers; the last one takes twice as long for its two stages."""
    return Profile(
        model="made-up",
        plan_sha256=plan_sha256,
        workers=tuple(_worker(name, 1 + (name == workers[-1])) for name in workers),
        coordinator=_machine(COORDINATOR),
        links=tuple(
            LinkProfile(between=pair, bytes_per_second=1e9, latency_seconds=1e-5)
            for pair in itertools.combinations((COORDINATOR, *workers), 2)
        ),
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
