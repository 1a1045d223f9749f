# SPDX-License-Identifier: Apache-2.0
"""How many messages a rank deals with, and what those take of a processor.

A part of a value that stays on its device is copied there, and counts as one message.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from decnn_tvm.simulation.script import Scripts

MESSAGE_CYCLES, BYTE_CYCLES = 5e5, 3.0
"""What a message takes at either end, in cycles of `decnn_tvm.planning.layer_costs`: 0.2 ms and 1.2
ns a byte where these are 2.5e9 a second. Fitted by hand on 2026-11-25 to what workers spent on
ResNet-50 in four splits with 2 to 360 messages an image, on 2 virtual cores with AVX-512."""


@dataclass(frozen=True, slots=True)
class MessageLoad:
    """Messages that a rank sends, takes in or copies: their number, and their bytes in all."""

    count: int = 0
    size: int = 0

    @property
    def cycles(self) -> float:
        """What they take of a processor, in cycles of `decnn_tvm.planning.layer_costs`, estimated.

        A second has as many as the device's clock says (`Speeds.clocks`).
        """
        return MESSAGE_CYCLES * self.count + BYTE_CYCLES * self.size

    def and_one_of(self, size: int) -> MessageLoad:
        """Return the load with another message."""
        return MessageLoad(self.count + 1, self.size + size)


def message_loads(scripts: Scripts, samples: Iterable[int]) -> dict[int, MessageLoad]:
    """Return what each rank has to do for all of these samples together."""
    loads: dict[int, MessageLoad] = {}

    def add(rank: int, size: int) -> None:
        loads[rank] = loads.get(rank, MessageLoad()).and_one_of(size)

    for sample in samples:
        for rank, script in scripts.of(sample).items():
            for departure in (each for departures in script.departures for each in departures):
                for target, size in departure.messages:
                    add(rank, size)
                    add(target, size)
                if departure.copied:
                    add(rank, departure.copied)
    return loads
