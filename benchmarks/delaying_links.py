# SPDX-License-Identifier: Apache-2.0
"""Links that take time: a process that hands Ethernet frames from one interface to another.

``python -m benchmarks.delaying_links SECONDS A,B ...`` makes two TAP interfaces for every pair,
prints a line once they are there, and passes on what one sends to the other after so many seconds,
in order, in both directions. Kernels without ``netem`` have nothing of that kind. TCP's large
segments pass whole (``IFF_VNET_HDR``), so that a gigabit costs a part of a core.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

# Numbers of linux/if_tun.h.
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_TAP, _NO_PACKET_INFO, _VNET_HEADER = 0x0002, 0x1000, 0x4000
_CHECKSUMS, _SEGMENTS_4, _SEGMENTS_6 = 0x01, 0x02, 0x04
_FRAME = 70_000
"""Bytes that no frame exceeds, with its virtio header."""
_AT_ONCE = 32
"""Frames that are taken from one interface before the others have their turn."""


@dataclass(slots=True)
class Direction:
    """Frames on their way to an interface, and when each is due."""

    target: int
    under_way: deque[tuple[float, bytes]] = field(default_factory=deque)

    def deliver(self, now: float) -> None:
        """Write what is due; the interface drops what it has no room for, as links do."""
        while self.under_way and self.under_way[0][0] <= now:
            with contextlib.suppress(OSError):
                os.write(self.target, self.under_way.popleft()[1])


def open_tap(name: str) -> int:
    """Make a TAP interface; it goes with the descriptor that is returned."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = _TAP | _NO_PACKET_INFO | _VNET_HEADER
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _CHECKSUMS | _SEGMENTS_4 | _SEGMENTS_6)
    return descriptor


def relay(directions: dict[int, Direction], delay: float) -> None:
    """Pass frames on until the process is ended."""
    while True:
        due = min((d.under_way[0][0] for d in directions.values() if d.under_way), default=None)
        wait = None if due is None else max(0.0, due - time.monotonic())
        for source in select.select(list(directions), (), (), wait)[0]:
            _take(source, directions[source], delay)
        now = time.monotonic()
        for direction in directions.values():
            direction.deliver(now)


def _take(source: int, direction: Direction, delay: float) -> None:
    for _ in range(_AT_ONCE):
        try:
            frame = os.read(source, _FRAME)
        except BlockingIOError:
            return
        direction.under_way.append((time.monotonic() + delay, frame))


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the interfaces and relay."""
    delay, *pairs = sys.argv[1:] if arguments is None else arguments
    directions: dict[int, Direction] = {}
    for pair in pairs:
        first, second = (open_tap(name) for name in pair.split(","))
        directions |= {first: Direction(second), second: Direction(first)}
    print("ready", flush=True)
    relay(directions, float(delay))


if __name__ == "__main__":
    main()
