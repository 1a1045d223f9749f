# SPDX-License-Identifier: Apache-2.0
"""Which device stays slow, from its heartbeats: pure functions over frozen data.

A window closes when every working device has finished enough samples in it. The measured seconds
per sample and channel group would give a best assignment; only where that beats the present one
clearly in several windows on end are the groups dealt anew. A device that has lost all its groups
so is measured no more, and what is remembered of it fades until it gets some again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from decnn_tvm.runtime.membership import Member, bottleneck, choose_counts

WINDOW_SECONDS = 2.0
WINDOW_SAMPLES = 16
WINDOWS = 3
"""Windows on end in which a new assignment must win."""
GAIN = 0.25
"""Part of the slowest device's time that it must save: the groups' move costs a pause."""
HALF_LIFE, LONGEST_HALF_LIFE = 20.0, 3600.0
"""Seconds in which the slowness of a device without groups fades to a half."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What a device had done at some time: samples, and seconds in stages."""

    samples: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Trend:
    """What has been seen so far.

    Attributes
    ----------
    since : float
        When the present window began.
    start : mapping of rank to Reading
        What devices had done then.
    wins : int
        Windows on end in which another assignment won.
    seconds : mapping of rank to float
        Seconds per sample and group in the last whole window.
    """

    since: float
    start: Mapping[int, Reading] = field(default_factory=dict)
    wins: int = 0
    seconds: Mapping[int, float] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """Whether it is time to deal the groups anew."""
        return self.wins >= WINDOWS


@dataclass(frozen=True, slots=True)
class Spare:
    """A device that was too slow to own any group.

    Attributes
    ----------
    since : float
        When it lost its groups.
    seconds : float
        What a sample and group took it then.
    half_life : float
        Seconds in which that fades to a half.
    """

    since: float
    seconds: float
    half_life: float = HALF_LIFE

    def seconds_at(self, now: float) -> float:
        """Return what a sample and group is taken to last by now."""
        return float(self.seconds * 0.5 ** ((now - self.since) / self.half_life))

    def again(self, now: float, seconds: float) -> Spare:
        """Return it where it got groups and was slow once more: it waits twice as long."""
        return Spare(now, seconds, min(LONGEST_HALF_LIFE, 2 * self.half_life))


def observe(
    trend: Trend,
    readings: Mapping[int, Reading],
    members: Sequence[Member],
    now: float,
    *,
    spares: Mapping[int, float] | None = None,
    whole: bool = False,
) -> Trend:
    """Return the trend after another look at the devices.

    Parameters
    ----------
    trend : Trend
        What was seen before.
    readings : mapping of rank to Reading
        What each device has done.
    members : sequence of Member
        The devices.
    now : float
        Seconds of the same clock as ``trend.since``.
    spares : mapping of rank to float, optional
        Seconds per sample and group of devices without groups, where that is known.
    whole : bool
        Whether a sample is one device's alone, as with replicas, whose groups are turns: then its
        time does not grow with its groups.
    """
    working = [m for m in members if m.groups]
    if any(m.rank not in readings for m in working):
        return trend
    if any(m.rank not in trend.start for m in working):
        return Trend(now, dict(readings), trend.wins, trend.seconds)
    done = {m.rank: readings[m.rank].samples - trend.start[m.rank].samples for m in working}
    if now - trend.since < WINDOW_SECONDS or min(done.values()) < WINDOW_SAMPLES:
        return trend
    seconds = {
        m.rank: (readings[m.rank].seconds - trend.start[m.rank].seconds)
        / (done[m.rank] * (1 if whole else len(m.groups)))
        for m in working
    }
    better = wins({**(spares or {}), **seconds}, members)
    return Trend(now, dict(readings), trend.wins + 1 if better else 0, seconds)


def wins(seconds: Mapping[int, float], members: Sequence[Member]) -> bool:
    """Tell whether another assignment beats the present one clearly at these speeds."""
    timed = with_speeds(members, seconds)
    counts = choose_counts(timed, sum(len(m.groups) for m in members))
    if counts is None:
        return False
    present = bottleneck([len(m.groups) for m in members], timed)
    return bottleneck(counts, timed) < (1 - GAIN) * present


def with_speeds(members: Sequence[Member], seconds: Mapping[int, float]) -> list[Member]:
    """Return the members with measured speeds; who has none counts as the fastest of those."""
    usual = min(seconds.values(), default=1.0)
    return [replace(m, seconds=max(seconds.get(m.rank, usual), 1e-9)) for m in members]
