# SPDX-License-Identifier: Apache-2.0
"""How patient a session is with its devices, and what it does on its own."""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass

from decnn_tvm.errors import InputError

SECONDS = ("beat", "silence", "orphan", "patience")
"""Fields that are seconds."""
LONGEST = 1e6
"""Seconds: eleven days. The system counts waits in milliseconds of 31 bits."""


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
        messages take there, since it can't be heard while one of them is under way; once some have
        come, by what they take indeed.
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
        for name in SECONDS:
            check_seconds(name, getattr(self, name), least=0.0)
        if not 0 < self.beat < self.silence / 2 or self.orphan < self.silence:
            raise InputError(
                f"beat={self.beat:g}, silence={self.silence:g}, orphan={self.orphan:g} seconds: "
                "expected 0 < 2 * beat < silence <= orphan, so that one late heartbeat is no loss."
            )
        rate = self.slowest_link
        if type(rate) not in (int, float) or not 0 < rate < math.inf:
            raise InputError(f"slowest_link={rate!r}: expected bits a second, above 0.")
        if type(self.replicas) is not int or self.replicas < 0:
            raise InputError(f"replicas={self.replicas!r}: expected a whole number, at least 0.")


def check_seconds(name: str, value: object, *, least: float | None = None) -> None:
    """Refuse what is no number of seconds that anybody could wait.

    Parameters
    ----------
    name : str
        What messages call it.
    value : object
        What was given.
    least : float, optional
        The smallest number that is taken; anything above 0 by default.

    Raises
    ------
    InputError
        It is no number, too small, or above `LONGEST`.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        if value <= LONGEST and (value > 0 if least is None else value >= least):
            return
    expected = "above 0" if least is None else f"at least {least:g}"
    raise InputError(
        f"{name}={reprlib.repr(value)}: expected a number of seconds, {expected}, "
        f"at most {LONGEST:,.0f}."
    )
