# SPDX-License-Identifier: Apache-2.0
"""In which order messages leave a device, as in `decnn_tvm.runtime.sender`.

Each peer's oldest sample is next, but what ZeroMQ and the kernel took is not overtaken: so many
bytes as a socket's buffer holds, the message that is being written, and `AHEAD` more, on links of
the coordinator `AHEAD_OF_HOST`. The connections share the port evenly, so that peers take turns, a
message each.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field

from decnn_tvm.runtime.sender import AHEAD, AHEAD_OF_HOST, SOCKET_BYTES
from decnn_tvm.transfers import HOST


@dataclass(frozen=True, slots=True)
class Message:
    """A part of a value on its way; `size` is in bytes, header included."""

    sample: int
    movement: int
    source: int
    target: int
    size: int


@dataclass(slots=True)
class _Peer:
    """What goes to one peer: heap entries that wait are (sample, number, message)."""

    ahead: int
    waiting: list[tuple[int, int, Message]] = field(default_factory=list)
    given: deque[Message] = field(default_factory=deque)

    def fill(self) -> None:
        """Hand over what the socket takes."""
        held, outside = 0, 0
        for message in self.given:
            held += message.size
            outside += held > SOCKET_BYTES
        while self.waiting and outside <= self.ahead:
            message = heapq.heappop(self.waiting)[2]
            self.given.append(message)
            held += message.size
            outside += held > SOCKET_BYTES


class OutPort:
    """The messages that a device is to send."""

    def __init__(self) -> None:
        self._peers: dict[int, _Peer] = {}
        self._turns: deque[int] = deque()
        self._count = 0

    def __bool__(self) -> bool:
        return bool(self._turns)

    def put(self, message: Message) -> None:
        """Add a message."""
        ahead = AHEAD_OF_HOST if HOST in (message.source, message.target) else AHEAD
        peer = self._peers.setdefault(message.target, _Peer(ahead))
        if not peer.given:
            self._turns.append(message.target)
        self._count += 1
        heapq.heappush(peer.waiting, (message.sample, self._count, message))
        peer.fill()

    def take(self) -> Message:
        """Return the message that leaves now; there must be one."""
        target = self._turns.popleft()
        peer = self._peers[target]
        message = peer.given.popleft()
        peer.fill()
        if peer.given:
            self._turns.append(target)
        return message
