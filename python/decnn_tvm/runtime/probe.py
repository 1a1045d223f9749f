# SPDX-License-Identifier: Apache-2.0
"""What a link can do, measured over the data plane itself: its sockets, checksums and keys.

One end measures and the other answers. The latency is half of the shortest of a few round trips of
an empty message. The bandwidth is that of a burst of payloads, doubled until it takes `BURST`
seconds, from the first send to the answer to the last payload, less the round trip.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from decnn_tvm.errors import ClusterError, ClusterTimeout
from decnn_tvm.runtime.transport import Transport
from decnn_tvm.runtime.wire import Header, Message, WireError, encode

ROUNDS = 20
"""Round trips; the shortest counts, since others wait for the scheduler."""
PAYLOAD = 1 << 16
MAX_BURST = 1 << 26
"""Bytes of the longest burst: they may lie in a board's memory."""
BURST = 0.2
ANSWER = 5.0
"""Seconds that an answer may take: half a megabit per second passes the first payload in one."""
LONGEST = 30.0
"""Seconds after which an end gives up."""

_PING, _BULK, _LAST, _END, _ANSWER = range(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkSpeed:
    """What was measured.

    Attributes
    ----------
    latency : float
        Seconds that an empty message takes one way.
    bandwidth : float
        Bits of payload per second.
    seconds_per_message, seconds_per_byte : float
        Processor time of the measuring process: for a message, sent or received, and for a byte of
        payload that it sends.
    """

    latency: float
    bandwidth: float
    seconds_per_message: float = 0.0
    seconds_per_byte: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One measurement, as its two ends know it.

    Attributes
    ----------
    number : int
        Tells its messages from those of others.
    rank, peer : int
        This end and the other.
    cluster : bytes
        The 16 bytes that name the check.
    """

    number: int
    rank: int
    peer: int
    cluster: bytes

    def measure(self, transport: Transport) -> LinkSpeed:
        """Measure the way to the peer, which answers.

        Raises
        ------
        ClusterTimeout
            It does not answer in time.
        """
        self._round_trip(transport)  # which also opens the connection
        before = time.process_time()
        trips = [self._round_trip(transport) for _ in range(ROUNDS)]
        message = (time.process_time() - before) / (2 * ROUNDS)
        count, deadline = 1, time.monotonic() + LONGEST
        while True:
            before = time.process_time()
            seconds = self._burst(transport, count)
            processor = time.process_time() - before
            enough = seconds >= BURST or count * PAYLOAD >= MAX_BURST
            if enough or time.monotonic() > deadline:
                break
            count *= 2
        # Answered too: an end that goes on to another peer drops what it has not sent.
        self._round_trip(transport, _END)
        moving = max(seconds - min(trips), 1e-9)
        return LinkSpeed(
            latency=min(trips) / 2,
            bandwidth=8 * count * PAYLOAD / moving,
            seconds_per_message=message,
            seconds_per_byte=processor / (count * PAYLOAD),
        )

    def answer(self, transport: Transport) -> None:
        """Answer the peer until it has done.

        Raises
        ------
        ClusterTimeout
            It says nothing for a while, or does not come to an end.
        """
        deadline = time.monotonic() + 2 * LONGEST
        while time.monotonic() < deadline:
            kind = self._receive(transport)
            if kind != _BULK:
                self._send(transport, _ANSWER)
            if kind == _END:
                return
        raise ClusterTimeout(f"rank {self.peer} does not end its measurement.")

    def _round_trip(self, transport: Transport, kind: int = _PING) -> float:
        start = time.monotonic()
        self._send(transport, kind)
        self._receive(transport)
        return time.monotonic() - start

    def _burst(self, transport: Transport, count: int) -> float:
        payload = bytes(PAYLOAD)
        start = time.monotonic()
        for _ in range(count - 1):
            self._send(transport, _BULK, payload)
        self._send(transport, _LAST, payload)
        self._receive(transport)
        return time.monotonic() - start

    def _send(self, transport: Transport, kind: int, payload: bytes = b"") -> None:
        header = Header(
            cluster=self.cluster,
            epoch=0,
            sample=self.number,
            movement=kind,
            source=self.rank,
            target=self.peer,
        )
        transport.send(self.peer, encode(header, [payload]))

    def _receive(self, transport: Transport) -> int:
        """Return the kind of the next message of this measurement."""
        deadline = time.monotonic() + ANSWER
        while (left := deadline - time.monotonic()) > 0:
            came = transport.receive(left)
            if isinstance(came, WireError):
                raise ClusterError(str(came))
            if came is not None and self._mine(came):
                return came.header.movement
        raise ClusterTimeout(
            f"nothing came over the data plane from rank {self.peer} within {ANSWER:g} s. Its port "
            "is a free one, other than the control plane's: allow all TCP ports between the "
            "machines of the cluster in their firewalls."
        )

    def _mine(self, message: Message) -> bool:
        header = message.header
        return (header.cluster, header.sample, header.source) == (
            self.cluster,
            self.number,
            self.peer,
        )
