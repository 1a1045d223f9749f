# SPDX-License-Identifier: Apache-2.0
"""What devices report about a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

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
    batch : int
        Images in a sample: the first extent of the network's first input.
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
    batch: int

    @property
    def images(self) -> int:
        """Images it has finished."""
        return self.samples * self.batch

    @property
    def sent_bytes_per_image(self) -> float:
        """Bytes sent over all movements, headers included, for one image."""
        return sum(self.sent_bytes.values()) / max(1, self.images)

    @property
    def compute_seconds_per_image(self) -> float:
        """Seconds in stages for one image."""
        return self.compute_seconds / max(1, self.images)

    @property
    def wait_seconds_per_image(self) -> float:
        """Seconds without a ready stage, while samples were under way, for one image."""
        return self.wait_seconds / max(1, self.images)


EventKind: TypeAlias = Literal["compute", "wait", "send", "receive"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEvent:
    """What a device did; seconds of the coordinator's `time.monotonic`.

    Each device notes times of its own clock, which are shifted by what was measured between the
    two: across machines they are off by half the time of a round trip at most.

    Attributes
    ----------
    rank : int
        The device.
    kind : {"compute", "wait", "send", "receive"}
        A run of a stage; no stage ready while samples are under way; checksum and hand-over of a
        message, which the network then carries meanwhile; check and unpacking of one. A message
        is on its way from the end of its "send" to the start of its "receive".
    sample : int
        The sample; for "wait" the oldest one under way.
    stage : str
        The stage; for "send" and "receive" the movement ``source -> target``.
    start, end : float
        When.
    """

    rank: int
    kind: EventKind
    sample: int
    stage: str
    start: float
    end: float


def checked_status(plan: Plan, status: dict[str, Any]) -> dict[str, Any]:
    """Return a device's answer to ``status`` if `device_stats` and `timeline_events` can read it.

    They raise what reading anything else does: `TypeError`, `ValueError`, `LookupError`.
    """
    stats = device_stats(plan, 0, "", (), status)
    events = timeline_events(0, status)
    counts = [stats.weight_bytes, stats.peak_bytes, stats.samples, *stats.sent_bytes.values()]
    seconds = [stats.compute_seconds, stats.wait_seconds]
    seconds += [time for event in events for time in (event.start, event.end)]
    if not all(type(count) is int for count in counts):
        raise TypeError("a counter that is no integer")
    if not all(isinstance(second, (int, float)) for second in seconds):
        raise TypeError("a time that is no number")
    return status


def device_stats(
    plan: Plan, rank: int, name: str, groups: Indices, status: dict[str, Any]
) -> DeviceStats:
    """Read a device's answer to ``status``."""
    names = [str(movement) for movement in plan.movements]
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
        batch=next(iter(plan.value(plan.inputs[0]).shape), 1),
    )


def timeline_events(rank: int, status: dict[str, Any], offset: float = 0.0) -> list[TimelineEvent]:
    """Read the timeline in a device's answer to ``status``; `offset` is added to its times."""
    return [
        TimelineEvent(
            rank=rank, kind=kind, sample=sample, stage=what, start=start + offset, end=end + offset
        )
        for kind, sample, what, start, end in status["timeline"]
    ]
