# SPDX-License-Identifier: Apache-2.0
"""What devices report about a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from decnn_tvm.plan import Indices, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStats:
    """One device since its session began.

    Attributes
    ----------
    rank : int
        The device.
    name : str
        What messages call it.
    groups : tuple of int
        Its channel groups.
    weight_bytes : int
        Bytes of its packed weights.
    peak_bytes : int
        Most resident bytes above the idle worker.
    sent_bytes : dict of str to int
        Bytes sent, headers included, for each movement ``source -> target``.
    compute_seconds, wait_seconds : float
        Time in stages; time without a ready stage while samples were under way.
    samples : int
        Samples it has finished.
    """

    rank: int
    name: str
    groups: Indices
    weight_bytes: int
    peak_bytes: int
    sent_bytes: dict[str, int]
    compute_seconds: float
    wait_seconds: float
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEvent:
    """One run of a stage; seconds of `time.monotonic` on the device's machine."""

    rank: int
    sample: int
    stage: str
    start: float
    end: float


def device_stats(
    plan: Plan, rank: int, name: str, groups: Indices, status: dict[str, Any]
) -> DeviceStats:
    """Read a device's answer to ``status``."""
    names = [f"{m.source} -> {m.target}" for m in plan.movements]
    return DeviceStats(
        rank=rank,
        name=name,
        groups=groups,
        weight_bytes=status["weight_bytes"],
        peak_bytes=status["peak_bytes"],
        sent_bytes={names[int(i)]: count for i, count in status["sent_bytes"].items()},
        compute_seconds=status["compute_seconds"],
        wait_seconds=status["wait_seconds"],
        samples=status["samples"],
    )


def timeline_events(rank: int, status: dict[str, Any]) -> list[TimelineEvent]:
    """Read the timeline in a device's answer to ``status``."""
    return [
        TimelineEvent(rank=rank, sample=sample, stage=stage, start=start, end=end)
        for sample, stage, start, end in status["timeline"]
    ]
