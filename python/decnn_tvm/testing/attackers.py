# SPDX-License-Identifier: Apache-2.0
"""Peers that wish a cluster ill: each sends one kind of bad message to a port of loopback.

None of them waits longer than a moment, and none keeps a connection that the other end has closed.
"""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import psutil
import zmq

from decnn_tvm.errors import ClusterError
from decnn_tvm.runtime.credentials import IDENTITY, Credentials
from decnn_tvm.runtime.remote_worker import RemoteWorker
from decnn_tvm.testing import fuzzing
from decnn_tvm.testing.tap import tap

Attack: TypeAlias = Callable[[], None]
"""Sends one message."""

ANSWER = 0.005
"""Seconds for an answer, or the end of the connection."""
GREETING = 64
"""Bytes of the greeting of ZMTP 3."""
PER_CONNECTION = 50
"""Messages on one ZeroMQ connection."""
CONNECT = 10.0
DRAIN_MS = 5000
"""Milliseconds that what was sent has to leave."""


def listening_ports(process_id: int) -> set[int]:
    """Return the TCP ports that a process listens on."""
    connections = psutil.Process(process_id).net_connections(kind="tcp")
    return {int(c.laddr.port) for c in connections if c.status == psutil.CONN_LISTEN}


def raw(port: int, messages: Iterator[bytes]) -> Attack:
    """Return what opens a connection for one message and waits for what comes of it."""

    def attack() -> None:
        with _connection(port) as sock:
            _send_and_look(sock, next(messages))

    return attack


def raw_zmtp(port: int, messages: Iterator[bytes]) -> Attack:
    """Return what sends the bytes of a ZeroMQ connection: the greeting, and then the rest.

    ZeroMQ looks at the rest only where it comes by itself, after the greeting was answered.
    """

    def attack() -> None:
        data = next(messages)
        with _connection(port) as sock, contextlib.suppress(OSError):
            sock.sendall(data[:GREETING])
            answered = 0
            while answered < GREETING and (part := sock.recv(GREETING)):
                answered += len(part)
            if answered >= GREETING:
                _send_and_look(sock, data[GREETING:])

    return attack


def conversation(port: int, messages: Iterator[bytes], ends: contextlib.ExitStack) -> Attack:
    """Return what sends one message more on a connection, as long as the other end keeps it.

    `ends` closes the last connection.
    """
    kept: list[socket.socket] = []
    ends.callback(_drop_all, kept)

    def attack() -> None:
        if not kept:
            kept.append(_open(port))
        if not _send_and_look(kept[0], next(messages)):
            _drop(kept.pop())

    return attack


def caller(port: int, rng: random.Random, ends: contextlib.ExitStack) -> Attack:
    """Return what connects as a coordinator does and calls what it has no session for.

    `ends` closes the connection.
    """
    kept: list[RemoteWorker] = []
    ends.callback(_hang_up, kept)

    def attack() -> None:
        if not kept:
            kept.append(RemoteWorker(f"127.0.0.1:{port}", "worker", CONNECT))
        method, arguments = fuzzing.control_call(rng)
        with contextlib.suppress(ClusterError):
            kept[0].call(method, *arguments)
        if kept[0].gone():
            _hang_up(kept)

    return attack


def zmq_peer(port: int, messages: Iterator[Sequence[bytes]], ends: contextlib.ExitStack) -> Attack:
    """Return what sends one message more through a ZeroMQ socket without keys.

    `ends` closes the last socket.
    """
    kept: list[zmq.Socket[bytes]] = []
    ends.callback(_close_all, kept)
    left = [0]

    def attack() -> None:
        if not left[0]:
            _close_all(kept)
            kept.append(_push(port, keyed=False, linger=DRAIN_MS))
            left[0] = PER_CONNECTION
        left[0] -= 1
        kept[0].send_multipart(list(next(messages)))

    return attack


def zmq_stranger(port: int, messages: Iterator[Sequence[bytes]], *, keyed: bool) -> Attack:
    """Return what tries to get one message in, on a connection of its own.

    Parameters
    ----------
    port : int
        A data plane that takes keys.
    messages : iterator of sequences of bytes
        The frames of each message.
    keyed : bool
        Whether to speak CURVE, with made-up keys on both sides, or without keys.
    """

    def attack() -> None:
        push = _push(port, keyed=keyed, linger=0)
        with contextlib.suppress(zmq.Again):  # once it was refused, ZeroMQ takes nothing more
            push.send_multipart(list(next(messages)), flags=zmq.NOBLOCK)
        time.sleep(ANSWER)
        push.close()

    return attack


def tls_client(port: int, messages: Iterator[bytes], identity: Path | None) -> Attack:
    """Return what makes a TLS connection, with a certificate of its own or none, and then asks."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if identity is not None:
        context.load_cert_chain(identity / IDENTITY)

    def attack() -> None:
        with _connection(port) as plain, contextlib.suppress(OSError):
            with context.wrap_socket(plain) as sock:
                sock.sendall(next(messages))
                answer = sock.recv(1 << 16)
                assert not answer, f"a stranger got an answer: {answer!r}"

    return attack


def client_hello() -> bytes:
    """Return the first bytes of a real TLS client."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client = context.wrap_bio(incoming, outgoing)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def endless(make: Callable[[], bytes]) -> Iterator[bytes]:
    """Return what `make` makes, for ever."""
    while True:
        yield make()


def recorded(port: int, keys: Path) -> bytes:
    """Return what a coordinator sends to a worker, as somebody on the path has it."""
    with tap(port) as (tapped, seen):
        worker = RemoteWorker(f"127.0.0.1:{tapped}", "worker", CONNECT, Credentials.load(keys))
        worker.observe()
        worker.disconnect()
    return bytes(seen)


def replays(record: bytes, rng: random.Random) -> Iterator[bytes]:
    """Return what was recorded, whole or with something wrong."""
    return endless(lambda: rng.choice((record, fuzzing.mutated(record, rng))))


def tls_bytes(rng: random.Random) -> Iterator[bytes]:
    """Return the start of TLS connections that go wrong somewhere, and bytes that are no TLS."""
    hello = client_hello()
    return endless(lambda: rng.choice((fuzzing.mutated(hello, rng), fuzzing.control_bytes(rng))))


@contextlib.contextmanager
def _connection(port: int) -> Iterator[socket.socket]:
    sock = _open(port)
    try:
        yield sock
    finally:
        _drop(sock)


def _open(port: int) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), timeout=CONNECT)
    sock.settimeout(ANSWER)
    return sock


def _hang_up(kept: list[RemoteWorker]) -> None:
    while kept:
        kept.pop().disconnect()


def _close_all(kept: list[zmq.Socket[bytes]]) -> None:
    while kept:
        kept.pop().close()


def _drop_all(kept: list[socket.socket]) -> None:
    while kept:
        _drop(kept.pop())


def _drop(sock: socket.socket) -> None:
    """Close a connection so that no port stays taken for a minute."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def _send_and_look(sock: socket.socket, data: bytes) -> bool:
    """Send `data` and take what comes; return whether the other end keeps the connection."""
    try:
        sock.sendall(data)
        return bool(sock.recv(1 << 16))
    except TimeoutError:
        return True
    except OSError:
        return False


def _push(port: int, *, keyed: bool, linger: int) -> zmq.Socket[bytes]:
    push: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
    push.setsockopt(zmq.LINGER, linger)
    if keyed:
        push.curve_publickey, push.curve_secretkey = zmq.curve_keypair()
        push.curve_serverkey = zmq.curve_keypair()[0]
    push.connect(f"tcp://127.0.0.1:{port}")
    return push
