# SPDX-License-Identifier: Apache-2.0
"""The thread that sends: to each peer its oldest sample first, and heartbeats before all.

ZeroMQ and the kernel take little at a time, so that what waits, waits here, where it still can be
overtaken. With several samples under way on links that are as busy as the processor, a device
otherwise waits for a small message of an old sample behind large ones of younger samples.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import zmq

from decnn_tvm.runtime.curve import Door
from decnn_tvm.runtime.heartbeat import Watch
from decnn_tvm.runtime.traffic import Traffic
from decnn_tvm.runtime.wire import Buffer, WireError
from decnn_tvm.transfers import HOST

LINGER_MS = 500
"""What was sent before `close` has so long to leave."""
SOCKET_BYTES = 128 << 10
"""Asked of the kernel for each peer, which takes twice that: a gigabit for 2 ms."""
AHEAD, AHEAD_OF_HOST = 1, 2
"""Messages that ZeroMQ holds for a peer besides the one that it is writing. On the links of the
coordinator nothing has to be overtaken, and a heartbeat finds room behind a message."""
RIDE = 0.5
"""Part of a heartbeat's period after which it goes along with a message: to wake a thread for a
heartbeat alone costs several times what the heartbeat itself does, at both ends."""


@dataclass(slots=True)
class Peer:
    """A peer, and what waits for it: heap entries are (order, number, frames).

    Attributes
    ----------
    beat : bool
        Whether a heartbeat is due.
    beaten : float
        When the last one was.
    spacious : bool
        Whether ZeroMQ has room for a heartbeat behind a message.
    """

    address: str
    push: zmq.Socket[bytes]
    spacious: bool
    waiting: list[tuple[int, int, Iterable[Buffer]]] = field(default_factory=list)
    beat: bool = False
    beaten: float = 0.0


@dataclass(frozen=True, slots=True)
class _Message:
    target: int
    frames: Iterable[Buffer]
    order: int


@dataclass(frozen=True, slots=True)
class _Peers:
    addresses: dict[int, str]


@dataclass(frozen=True, slots=True)
class _End:
    pass


_Given: TypeAlias = "_Message | _Peers | _End"


class Sender:
    """Sends what other threads give it.

    Parameters
    ----------
    context : zmq.Context
        Of its sockets.
    door : Door
        Connects them.
    watch : Watch
        Knows when to beat and what to say; counts what is sent.
    traffic : Traffic
        Counts bytes.
    refuse : callable
        Told why a message could not be sent.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        door: Door,
        watch: Watch,
        traffic: Traffic,
        refuse: Callable[[WireError], None],
    ) -> None:
        self._context, self._door, self._watch = context, door, watch
        self._traffic, self._refuse = traffic, refuse
        self._given: queue.SimpleQueue[_Given] = queue.SimpleQueue()
        self._peers: dict[int, Peer] = {}
        self._numbers = itertools.count()
        # Ends a wait for room in a socket, where the queue alone would not.
        self._bell, self._polling = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC), False
        self._thread = threading.Thread(target=self._run, name="decnn-send", daemon=True)
        self._thread.start()

    def send(self, target: int, frames: Iterable[Buffer], order: int = 0) -> None:
        """Send a message to a rank, without waiting; one of a smaller `order` may overtake it."""
        self._give(_Message(target, frames, order))

    def meet(self, addresses: Mapping[int, str]) -> None:
        """Have these peers alone; what still waits belongs to an older epoch and is dropped."""
        self._give(_Peers(dict(addresses)))

    def close(self, timeout: float) -> bool:
        """Send what waits, for `LINGER_MS` at most, and end; return whether that took place."""
        self._give(_End())
        self._thread.join(timeout)
        if self._thread.is_alive():
            return False
        for peer in self._peers.values():
            peer.push.close()
        self._peers.clear()
        os.close(self._bell)
        return True

    def _give(self, item: _Given) -> None:
        self._given.put(item)
        if self._polling:
            os.eventfd_write(self._bell, 1)

    def _run(self) -> None:
        end = float("inf")
        while (now := time.monotonic()) < end:
            due = self._make_due(now)
            blocked = self._hand_over()
            if end != float("inf") and not blocked:
                return
            item = self._wait(blocked, min(due, end) - time.monotonic())
            if isinstance(item, _Message):
                self._put(item)
            elif isinstance(item, _Peers):
                self._meet(item.addresses)
            elif isinstance(item, _End):
                end = time.monotonic() + LINGER_MS / 1e3

    def _make_due(self, now: float) -> float:
        """Note which heartbeats are due; return when to look again."""
        period = self._watch.policy.beat
        peers = [self._peers[rank] for rank in self._watch.listeners() if rank in self._peers]
        if any(now >= peer.beaten + period for peer in peers):
            for peer in peers:
                if now >= peer.beaten + RIDE * period:
                    peer.beat, peer.beaten = True, now
        return min((peer.beaten for peer in peers), default=now) + period

    def _put(self, message: _Message) -> None:
        peer = self._peers.get(message.target)
        if peer is None:
            self._refuse(WireError(f"can't send to rank {message.target}: no such peer"))
            return
        heapq.heappush(peer.waiting, (message.order, next(self._numbers), message.frames))

    def _hand_over(self) -> list[Peer]:
        """Give the sockets what they take; return the peers whose sockets are full."""
        blocked = []
        for rank, peer in self._peers.items():
            try:
                while peer.beat or peer.waiting:
                    self._send_one(rank, peer)
            except zmq.Again:
                blocked.append(peer)
            except zmq.ZMQError as error:
                # Counted as sent, they are missed at the next heartbeat, and replayed.
                for _ in peer.waiting:
                    self._watch.wrote(rank)
                peer.waiting.clear()
                peer.beat = False
                self._refuse(WireError(f"can't send to rank {rank}: {error!r}"))
        return blocked

    def _send_one(self, rank: int, peer: Peer) -> None:
        if peer.beat:
            self._send_beat(rank, peer)
            return
        order, number, frames = peer.waiting[0]
        parts = list(frames)  # an iterator is read here, late: it computes the checksum
        peer.waiting[0] = (order, number, parts)
        peer.push.send_multipart(parts, flags=zmq.NOBLOCK, copy=False)
        heapq.heappop(peer.waiting)
        self._watch.wrote(rank)
        self._traffic.note_sent(rank, parts)
        rides = peer.spacious and not peer.waiting and rank in self._watch.listeners()
        if rides and time.monotonic() >= peer.beaten + RIDE * self._watch.policy.beat:
            with contextlib.suppress(zmq.Again):
                self._send_beat(rank, peer)

    def _send_beat(self, rank: int, peer: Peer) -> None:
        parts = list(self._watch.beat(rank))
        peer.push.send_multipart(parts, flags=zmq.NOBLOCK, copy=False)
        peer.beat, peer.beaten = False, time.monotonic()
        self._traffic.note_sent(rank, parts)

    def _wait(self, blocked: list[Peer], seconds: float) -> _Given | None:
        """Return what is given, or None where the time is up or a socket has room."""
        try:
            if not blocked:
                return self._given.get(timeout=max(0.0, seconds))
            self._polling = True
            if self._given.empty():
                self._poll(blocked, max(0, math.ceil(1e3 * seconds)))
            return self._given.get_nowait()
        except queue.Empty:
            return None
        finally:
            self._polling = False

    def _poll(self, blocked: list[Peer], milliseconds: int) -> None:
        """Wait for the bell, or for room in a socket that was full."""
        poller = zmq.Poller()
        poller.register(self._bell, zmq.POLLIN)
        for peer in blocked:
            poller.register(peer.push, zmq.POLLOUT)
        if self._bell in dict(poller.poll(milliseconds)):
            os.eventfd_read(self._bell)

    def _meet(self, addresses: Mapping[int, str]) -> None:
        """Open and close sockets so that these peers are met."""
        for rank, peer in list(self._peers.items()):
            peer.waiting.clear()
            if addresses.get(rank) != peer.address:
                # What was meant for a peer that is gone would wait for it.
                peer.push.close(linger=0)
                del self._peers[rank]
        for rank, address in addresses.items():
            if rank not in self._peers:
                push = self._context.socket(zmq.PUSH)
                # A link between two workers: the coordinator does not have itself as a peer.
                crowded = rank != HOST and HOST in addresses
                push.setsockopt(zmq.SNDHWM, AHEAD if crowded else AHEAD_OF_HOST)
                push.setsockopt(zmq.SNDBUF, SOCKET_BYTES)
                push.setsockopt(zmq.LINGER, LINGER_MS)
                self._door.dial(push, address)
                self._peers[rank] = Peer(address, push, not crowded)
        self._watch.restart_counts()
