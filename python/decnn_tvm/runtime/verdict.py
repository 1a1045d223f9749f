# SPDX-License-Identifier: Apache-2.0
"""When a device counts as lost, and when a new epoch is enough: a pure function of what is seen.

A device is lost when its control connection has ended, when it is silent, when it does not hear
the coordinator, or when its engine failed. Where two devices that the coordinator hears do not
hear each other, one of them has to go: the one with more such links, then the one with fewer
channel groups. Frames that got lost between devices that hear each other cost a new epoch alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from decnn_tvm.plan import Indices
from decnn_tvm.runtime.heartbeat import Pulse
from decnn_tvm.transfers import HOST


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What the coordinator sees.

    Attributes
    ----------
    groups : mapping of rank to tuple of int
        The devices of the epoch and their channel groups.
    ended : mapping of rank to str
        Devices whose connection has ended or whose engine failed, with the cause.
    silent, short : tuple of int
        Devices that the coordinator does not hear; of whose messages it lacks some.
    pulses : mapping of rank to Pulse
        Their last heartbeats.
    """

    groups: Mapping[int, Indices]
    ended: Mapping[int, str] = field(default_factory=dict)
    silent: tuple[int, ...] = ()
    short: tuple[int, ...] = ()
    pulses: Mapping[int, Pulse] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The lost devices with the cause; why the others need a new epoch, empty if they don't."""

    lost: Mapping[int, str]
    resync: str = ""


def judge(sight: Sight) -> Verdict:
    """Decide what to do about what is seen."""
    lost = {rank: why for rank, why in sight.ended.items() if rank in sight.groups}
    for rank in sight.silent:
        if rank in sight.groups:
            lost.setdefault(rank, "is silent")
    for rank, pulse in sight.pulses.items():
        if HOST in pulse.silent and rank in sight.groups:
            lost.setdefault(rank, "does not hear the coordinator")
    lost |= _cut_off(sight, lost)
    short = [(HOST, rank) for rank in sight.short] + [
        (rank, peer) for rank, pulse in sight.pulses.items() for peer in pulse.short
    ]
    heard = {HOST, *sight.groups} - {*lost}
    missing = [(to, sender) for to, sender in short if {to, sender} <= heard]
    return Verdict(lost, _describe(missing) if missing else "")


def _cut_off(sight: Sight, lost: Mapping[int, str]) -> dict[int, str]:
    """Choose devices to give up until all that are left hear each other."""
    alive = {rank for rank in sight.groups if rank not in lost}
    cut = {
        frozenset((rank, peer))
        for rank, pulse in sight.pulses.items()
        for peer in pulse.silent
        if {rank, peer} <= alive
    }
    gone: dict[int, str] = {}
    while cut:
        links = {rank: [pair for pair in cut if rank in pair] for rank in alive}
        worst = min(alive, key=lambda r: (-len(links[r]), len(sight.groups[r]), -r))
        peers = sorted(rank for pair in links[worst] for rank in pair if rank != worst)
        gone[worst] = f"is cut off from {', '.join(f'worker {rank}' for rank in peers)}"
        cut = {pair for pair in cut if worst not in pair}
        alive.discard(worst)
    return gone


def _describe(missing: list[tuple[int, int]]) -> str:
    def name(rank: int) -> str:
        return "the coordinator" if rank == HOST else f"worker {rank}"

    return "; ".join(f"{name(to)} lacks frames of {name(sender)}" for to, sender in missing)
