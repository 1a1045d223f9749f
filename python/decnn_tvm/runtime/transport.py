# SPDX-License-Identifier: Apache-2.0
"""How messages travel: a small seam, its in-memory twin, and ZeroMQ.

`send` never blocks: what is under way is bounded by the session's in-flight window. Frames may be
an iterator, which ZeroMQ's transport reads in a thread of its own, so that checksums cost the
compute loop nothing. `receive` waits at most its timeout. The same two threads send and take in
heartbeats, so that a device is heard while it computes. What is no whole message of this cluster is
dropped and counted where it arrives: whoever sends noise must not be able to stop a session.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import zmq

from decnn_tvm.errors import ClusterError
from decnn_tvm.runtime.curve import Door
from decnn_tvm.runtime.heartbeat import Watch
from decnn_tvm.runtime.inbox import Inbox
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.runtime.sender import Sender
from decnn_tvm.runtime.traffic import Traffic
from decnn_tvm.runtime.wire import MAX_PAYLOAD, Buffer, Header, Message, WireError

POLL_MS = 100
STOP_TIMEOUT = 5.0
CURVE_BYTES = 256
"""What encryption adds to a frame, and more than a handshake's commands take."""


class Transport(Protocol):
    """Sends frames to ranks and receives decoded messages."""

    def send(self, target: int, frames: Iterable[Buffer], order: int = 0) -> None:
        """Send a message to a rank, without waiting; one of a smaller `order` may overtake it."""

    def receive(self, timeout: float, enough: int = 1) -> Message | WireError | None:
        """Return the next message, why one could not be sent, or None after `timeout` seconds.

        Who needs more than one message says how many are `enough`, and may be left to wait for
        these until the time is up.
        """

    def close(self) -> None:
        """Free sockets and threads."""


class MemoryNetwork:
    """Transports of several ranks in one process; the frames are copied as a network would."""

    def __init__(self, ranks: Sequence[int]) -> None:
        self.queues: dict[int, queue.SimpleQueue[list[bytes]]] = {
            rank: queue.SimpleQueue() for rank in ranks
        }

    def transport(self, rank: int) -> MemoryTransport:
        """Return the transport of one rank."""
        return MemoryTransport(self, rank)


class MemoryTransport:
    """One rank's end of a `MemoryNetwork`."""

    def __init__(self, network: MemoryNetwork, rank: int) -> None:
        self._network, self._rank = network, rank
        self.traffic = Traffic()

    def send(self, target: int, frames: Iterable[Buffer], order: int = 0) -> None:
        """Send a message to a rank, without waiting; nothing is overtaken here."""
        self._network.queues[target].put([bytes(frame) for frame in frames])

    def receive(self, timeout: float, enough: int = 1) -> Message | WireError | None:
        """Return the next message, or None after `timeout` seconds."""
        own = self._network.queues[self._rank]
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            try:
                frames = own.get(timeout=left) if left > 0 else own.get_nowait()
            except queue.Empty:
                return None
            if (message := self.traffic.decode(frames)) is not None:
                return message

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What a deployment's data plane takes.

    Attributes
    ----------
    cluster : bytes, optional
        The deployment whose messages are taken; any where it is None.
    max_payload : int
        Bytes of the largest message.
    encrypt : bool
        Whether both ends must know each other's keys.
    """

    cluster: bytes | None = None
    max_payload: int = MAX_PAYLOAD
    encrypt: bool = False


OPEN = Guard()
"""Takes messages of any deployment from anybody."""


class ZmqTransport:
    """ZeroMQ: one bound PULL socket, one PUSH socket for every peer.

    The PULL socket belongs to a thread that receives, the PUSH sockets to a `Sender`.

    Parameters
    ----------
    host : str
        Address of the interface to bind; the port is free and chosen by the system.
    watch : Watch, optional
        Sees what comes and what is sent, and beats, from the first `begin` on.
    cluster : bytes, optional
        The deployment whose messages are taken; any by default.
    max_payload : int
        Bytes of the largest message; a longer one is cut off before memory is taken for it.
    encrypt : bool
        Whether both ends must know each other's keys, which are part of `locator`.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        watch: Watch | None = None,
        *,
        cluster: bytes | None = None,
        max_payload: int = MAX_PAYLOAD,
        encrypt: bool = False,
    ) -> None:
        self._watch = Watch(Policy()) if watch is None else watch
        self._context = zmq.Context(io_threads=1)
        self._inbox = Inbox()
        self._stopping = threading.Event()
        self.traffic = Traffic(cluster)
        self._door = Door(self._context, encrypt=encrypt)
        pull = self._context.socket(zmq.PULL)
        pull.setsockopt(zmq.RCVHWM, 0)
        pull.setsockopt(zmq.LINGER, 0)
        pull.setsockopt(zmq.MAXMSGSIZE, min(max_payload, MAX_PAYLOAD) + CURVE_BYTES)
        self._door.guard(pull)
        try:
            self.port = int(pull.bind_to_random_port(f"tcp://{host}"))
        except zmq.ZMQError as error:
            pull.close()
            self._door.close()
            self._context.term()
            raise ClusterError(
                f"can't listen on {host!r} ({error}). Pass an address of this machine."
            ) from error
        self._sender = Sender(
            self._context, self._door, self._watch, self.traffic, self._note_refused
        )
        self._receiver = threading.Thread(
            target=self._receive_all, args=(pull,), name="decnn-receive", daemon=True
        )
        self._receiver.start()

    @property
    def locator(self) -> str:
        """The part of our address after ``host:``, which peers connect to."""
        return self._door.locator(self.port)

    def connect(self, addresses: Mapping[int, str]) -> None:
        """Have these peers alone, at ``host:locator`` each; one whose address stays is kept.

        Raises
        ------
        ClusterError
            One end has keys, the other none.
        """
        self._door.expect(addresses)
        self._sender.meet(addresses)

    def begin(
        self,
        header: Header,
        addresses: Mapping[int, str],
        sizes: Mapping[int, int] | None = None,
    ) -> None:
        """Begin an epoch with these peers; what is sent from here on belongs to it.

        `sizes` are the bytes of the largest message from each of them.
        """
        self._watch.begin(header, addresses, sizes)
        self.connect(addresses)

    def wake(self) -> None:
        """End the wait of `receive`, which then returns None."""
        self._inbox.put(None)

    def send(self, target: int, frames: Iterable[Buffer], order: int = 0) -> None:
        """Send a message to a rank, without waiting; one of a smaller `order` may overtake it.

        Large frames are not copied.
        """
        self._sender.send(target, frames, order)

    def receive(self, timeout: float, enough: int = 1) -> Message | WireError | None:
        """Return the next message, why one could not be sent, or None after `timeout` seconds."""
        return self._inbox.get(timeout, enough)

    def close(self) -> None:
        """Close all sockets; what was sent has half a second to leave."""
        if self._stopping.is_set():
            return
        self._stopping.set()
        sent = self._sender.close(STOP_TIMEOUT)
        self._receiver.join(STOP_TIMEOUT)
        if sent and not self._receiver.is_alive():
            self._context.term()

    def _note_refused(self, refused: WireError) -> None:
        if self._watch.admit(refused):
            self._inbox.put(refused)

    def _receive_all(self, pull: zmq.Socket[bytes]) -> None:
        with contextlib.closing(self._door), contextlib.closing(pull):
            while not self._stopping.is_set():
                arrived = self._door.wait(pull, POLL_MS)
                self._watch.tick()
                if arrived:
                    frames = pull.recv_multipart(copy=False)
                    parts = [frame.buffer for frame in frames]
                    message = self.traffic.decode(parts, self._door.source(frames[0]))
                    if message is not None and self._watch.admit(message):
                        self._inbox.put(message)
