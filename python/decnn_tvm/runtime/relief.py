# SPDX-License-Identifier: Apache-2.0
"""Devices that stay slow are noticed by their heartbeats, and get fewer channel groups."""

from __future__ import annotations

import time
from collections.abc import Mapping

from decnn_tvm.runtime.heartbeat import Pulse
from decnn_tvm.runtime.pace import Reading, Trend, observe
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
        self.begin(time.monotonic())

    def begin(self, now: float) -> None:
        """Begin anew, in another epoch."""
        self._trend, self._reason = Trend(now), ""

    def look(self, pulses: Mapping[int, Pulse], now: float) -> str:
        """Return which devices stay slow, until the next epoch; empty where none does."""
        roster = self._roster
        if self._reason or not self.on or roster.changed:
            return self._reason
        readings = {
            rank: Reading(pulse.samples, pulse.seconds)
            for rank, pulse in pulses.items()
            if rank in roster.mates
        }
        self._trend = observe(self._trend, readings, roster.members(), now, whole=self._whole)
        if self._trend.settled:
            roster.seconds, roster.changed = dict(self._trend.seconds), True
            times = ", ".join(f"worker {r} {1e3 * s:.2f}" for r, s in roster.seconds.items())
            self._reason = f"a device stays slow (ms per sample and group: {times})"
        return self._reason
