# SPDX-License-Identifier: Apache-2.0
"""Keys of the data plane: CURVE (Curve25519, XSalsa20-Poly1305) on ZeroMQ's sockets.

Each end of a session makes a key pair of its own, which lives as long as the session. Public keys
travel over the control plane, as part of an address: ``host:port#KEY``, 64 hexadecimal digits. A
sender knows which key the receiver must have, and a receiver admits the keys of its present peers
alone and knows whose a message is: a peer can't speak in another's name, nor after it was given up.
A stranger does not know the receiver's public key either, so it gets nowhere near a message.
"""

from __future__ import annotations

from collections.abc import Mapping

import zmq
from zmq.utils import z85

from decnn_tvm.errors import ClusterError

ZAP_ADDRESS = "inproc://zeromq.zap.01"
ZAP_VERSION = b"1.0"
ZAP_DOMAIN = b"decnn"
NOBODY = 1 << 32
"""A rank that no message can have."""
MAX_WAITING = 64
"""Peers that may wait for a verdict while this end has not been told of them."""
HANDSHAKE_MS = 10_000
POLL_BUSY_MS = 5
"""Milliseconds between two looks at peers that wait to be let in."""


def split_address(address: str) -> tuple[str, bytes]:
    """Split ``host:port#KEY`` into the address and the key in ZeroMQ's text form, empty for none.

    Raises
    ------
    ClusterError
        The key is no key.
    """
    place, separator, digits = address.partition("#")
    if not separator:
        return place, b""
    try:
        key = bytes.fromhex(digits)
    except ValueError:
        key = b""
    if len(key) != 32:
        raise ClusterError(f"address {place}: its key is {digits!r}; expected 64 digits.")
    return place, z85.encode(key)


class Door:
    """How peers come in at one end of the data plane: with keys, or, without `encrypt`, anyhow.

    Its sockets belong to the thread that calls `wait` and `close`.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], *, encrypt: bool) -> None:
        self._public, self._secret = zmq.curve_keypair() if encrypt else (b"", b"")
        self._gate = Gatekeeper(context) if encrypt else None
        self._poller = zmq.Poller()

    def locator(self, port: int) -> str:
        """Return the part of our address after ``host:``."""
        return f"{port}#{z85.decode(self._public).hex()}" if self._public else str(port)

    def guard(self, pull: zmq.Socket[bytes]) -> None:
        """Prepare the socket that receives, before it is bound."""
        self._poller.register(pull, zmq.POLLIN)
        if self._gate is not None:
            self._poller.register(self._gate.socket, zmq.POLLIN)
            pull.curve_secretkey, pull.curve_server = self._secret, True
            pull.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
            pull.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)

    def expect(self, addresses: Mapping[int, str]) -> None:
        """Let these peers in, by rank, and from now on nobody else.

        Raises
        ------
        ClusterError
            One end has keys, the other none.
        """
        ranks: dict[bytes, int] = {}
        for rank, address in addresses.items():
            place, key = split_address(address)
            if bool(key) != bool(self._public):
                raise ClusterError(
                    f"rank {rank} at {place}: {'a key' if key else 'no key'} there, and "
                    f"{'one' if self._public else 'none'} here. Give all processes keys."
                )
            ranks[key] = rank
        if self._gate is not None:
            self._gate.admit(ranks)

    def source(self, frame: zmq.Frame) -> int | None:
        """Return which peer sent a frame, `NOBODY` for none of those; None without keys."""
        return None if self._gate is None else self._gate.rank_of(frame)

    def dial(self, push: zmq.Socket[bytes], address: str) -> None:
        """Connect a socket to a peer that was expected, and to nobody else."""
        place, key = split_address(address)
        if key:
            push.curve_publickey, push.curve_secretkey = self._public, self._secret
            push.curve_serverkey = key
        push.connect(f"tcp://{place}")

    def wait(self, pull: zmq.Socket[bytes], milliseconds: int) -> bool:
        """Wait until there is a message or the time is up, and let peers in meanwhile."""
        waits = self._gate is not None and self._gate.busy
        ready = dict(self._poller.poll(POLL_BUSY_MS if waits else milliseconds))
        if self._gate is not None and (waits or self._gate.socket in ready):
            self._gate.work()
        return pull in ready

    def close(self) -> None:
        """Free the socket of the gate."""
        if self._gate is not None:
            self._gate.close()


class Gatekeeper:
    """Answers ZeroMQ's question whether a key may come in (the ZAP protocol, RFC 27).

    A peer may be told of this end sooner than this end of the peer, and ZeroMQ does not try again
    once it was refused, so an unknown key waits until it is known or too many others wait.

    Who is let in once keeps his connection, so each message is asked for its key again.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.bind(ZAP_ADDRESS)
        self._ranks: dict[str, int] = {}
        self._waiting: list[list[bytes]] = []
        self.refused = 0

    @property
    def busy(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    def admit(self, ranks: Mapping[bytes, int]) -> None:
        """Let these keys in and no others, from any thread; each is that of a rank."""
        self._ranks = {key.decode(): rank for key, rank in ranks.items()}

    def rank_of(self, frame: zmq.Frame) -> int:
        """Return the rank with whose key a frame came, `NOBODY` where it is no peer's now."""
        return self._ranks.get(str(frame.get("User-Id")), NOBODY)

    def work(self) -> None:
        """Take in questions and answer those that can be; called by the thread of the socket."""
        while self.socket.poll(0):
            self._waiting.append(self.socket.recv_multipart())
        ranks = self._ranks  # another thread may put another one in its place
        waiting, self._waiting = self._waiting, []
        for question in waiting:
            key = z85.encode(question[8]) if len(question) == 9 else b""
            if key.decode() in ranks:
                self._answer(question, b"200", key)
            else:
                self._waiting.append(question)
        while len(self._waiting) > MAX_WAITING:
            self.refused += 1
            self._answer(self._waiting.pop(0), b"400")

    def close(self) -> None:
        """Free the socket."""
        self.socket.close()

    def _answer(self, question: list[bytes], status: bytes, key: bytes = b"") -> None:
        # identity, empty, version, request id | status, text, user id, metadata
        reply = [*question[:2], ZAP_VERSION, question[3], status, b"", key, b""]
        self.socket.send_multipart(reply, flags=zmq.NOBLOCK)
