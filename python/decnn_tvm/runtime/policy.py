# SPDX-License-Identifier: Apache-2.0
"""How patient a session is with its devices, and what it does on its own."""

from __future__ import annotations

from dataclasses import dataclass

from decnn_tvm.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a session deals with devices that come, go, or are slow.

    A heartbeat comes from a thread that does not compute, so a device under load still beats.

    Attributes
    ----------
    beat : float
        Seconds between two heartbeats.
    silence : float
        Seconds without any message after which a device counts as lost, at most: one whose
        messages have come steadily is given up earlier, see `decnn_tvm.runtime.heartbeat`.
    slowest_link : float
        Bits per second of the slowest link. A device is given up later by what its largest
        messages take there, since it can't be heard while one of them is under way.
    orphan : float
        Seconds without the coordinator after which a worker ends its session.
    takeover : bool
        Whether survivors take over the channel groups of a device that is lost; otherwise its
        loss ends the session with an error.
    rejoin : bool
        Whether lost devices are tried again, with growing pauses, and taken in.
    rebalance : bool
        Whether a device that stays slow gets fewer channel groups.
    patience : float
        Seconds to wait for lost devices where those that are left can't hold all channel groups.
    replicas : int
        On how many other devices the weights of each channel group are stored as well.
    """

    beat: float = 0.1
    silence: float = 1.0
    slowest_link: float = 20e6
    orphan: float = 60.0
    takeover: bool = True
    rejoin: bool = True
    rebalance: bool = True
    patience: float = 5.0
    replicas: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.beat < self.silence / 2 or self.orphan < self.silence:
            raise InputError(
                f"beat={self.beat:g}, silence={self.silence:g}, orphan={self.orphan:g} seconds: "
                "expected 0 < 2 * beat < silence <= orphan, so that one late heartbeat is no loss."
            )
        if not self.slowest_link > 0:
            raise InputError(f"slowest_link={self.slowest_link}: expected bits a second, above 0.")
        if self.replicas < 0:
            raise InputError(f"replicas={self.replicas}: expected at least 0.")
