# SPDX-License-Identifier: Apache-2.0
"""Devices that stay slow are noticed by their heartbeats, and get fewer channel groups.

One that is left without any gets some again when its slowness has faded, see
`decnn_tvm.runtime.pace`: nothing else would tell that it is fast once more.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from decnn_tvm.runtime.heartbeat import Pulse
from decnn_tvm.runtime.membership import choose_counts
from decnn_tvm.runtime.pace import WINDOW_SECONDS, Reading, Spare, Trend, observe, wins
from decnn_tvm.runtime.roster import Roster


class Relief:
    """Looks at one epoch after the other.

    Parameters
    ----------
    roster : Roster
        Learns how fast the devices are.
    strategy : str
        How the network is split.
    on : bool
        Whether anything is to be done.
    """

    def __init__(self, roster: Roster, strategy: str, *, on: bool) -> None:
        self._roster, self._whole = roster, strategy == "replicas"
        # The stages of a pipeline differ, so that their times say nothing of the devices.
        self.on = on and strategy != "pipeline"
        self._spares: dict[int, Spare] = {}
        self._idle: set[int] = set()
        self._trend = Trend(time.monotonic())
        self.begin(self._trend.since)

    def begin(self, now: float) -> None:
        """Begin anew, in another epoch."""
        slow = self._trend.seconds if self._trend.settled else {}
        self._trend, self._reason, self._due = Trend(now), "", now + WINDOW_SECONDS
        # Who is lost meanwhile is neither: its slowness fades on.
        for rank in self._roster.mates:
            if self._roster.owned(rank):
                self._idle.discard(rank)
            elif rank in slow and rank not in self._idle:
                seconds, before = slow[rank], self._spares.get(rank)
                self._spares[rank] = before.again(now, seconds) if before else Spare(now, seconds)
                self._idle.add(rank)

    def look(self, pulses: Mapping[int, Pulse], now: float) -> str:
        """Return who stays slow, or is to be tried again, until the next epoch; or nothing."""
        if not self._reason and self.on and not self._roster.changed:
            self._reason = self._slow(pulses, now) or self._faded(now)
            self._roster.changed = bool(self._reason)
        return self._reason

    def _slow(self, pulses: Mapping[int, Pulse], now: float) -> str:
        roster = self._roster
        readings = {
            rank: Reading(pulse.samples, pulse.seconds)
            for rank, pulse in pulses.items()
            if rank in roster.mates
        }
        spares, members = {rank: roster.seconds[rank] for rank in self._idle}, roster.members()
        self._trend = observe(self._trend, readings, members, now, spares=spares, whole=self._whole)
        if not self._trend.settled:
            if self._trend.seconds and not self._trend.wins:
                self._spares = {rank: self._spares[rank] for rank in self._idle}
            return ""
        roster.seconds = {**spares, **self._trend.seconds}
        times = ", ".join(f"worker {r} {1e3 * s:.2f}" for r, s in sorted(roster.seconds.items()))
        return f"speeds have changed (ms per sample and group: {times})"

    def _faded(self, now: float) -> str:
        if not self._idle or now < self._due:
            return ""
        self._due = now + WINDOW_SECONDS
        seconds = self._roster.seconds
        usual = min((s for rank, s in seconds.items() if rank not in self._idle), default=0.0)
        for rank in self._idle:
            spare = self._spares[rank]
            seconds[rank] = max(min(usual, spare.seconds), spare.seconds_at(now))
        members = self._roster.members()
        counts = choose_counts(members, sum(len(m.groups) for m in members)) or ()
        dealt = list(zip(members, counts, strict=False))
        if any(m.groups and not k for m, k in dealt) and not wins(seconds, members):
            return ""
        names = ", ".join(f"worker {m.rank}" for m, k in dealt if k and m.rank in self._idle)
        return f"{names}: slow some time ago, tried again" if names else ""
