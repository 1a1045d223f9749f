# SPDX-License-Identifier: Apache-2.0
"""The control plane's packets: bounded, in time, over TLS too; and what rpyc no longer does."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rpyc
from rpyc.core import brine, consts

from decnn_tvm.errors import ClusterError
from decnn_tvm.keys import make_keys
from decnn_tvm.runtime.control import protocol
from decnn_tvm.runtime.control_channel import (
    MAX_PACKET,
    BoundedChannel,
    BoundedStream,
    CoordinatorConnection,
    WorkerConnection,
)
from decnn_tvm.runtime.credentials import Credentials
from decnn_tvm.testing.fuzzing import packet

LIMIT = 10.0


class EchoService(rpyc.Service):  # type: ignore[misc]
    def exposed_echo(self, value: Any) -> Any:
        return value

    def exposed_leave(self) -> None:
        raise SystemExit(7)

    def secret(self) -> str:
        return "secret"


@pytest.fixture(params=["plain", "tls"])
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """Return two connected sockets, the coordinator's and the worker's."""
    near, far = socket.socketpair()
    if request.param == "tls":
        make_keys(tmp_path)
        own, other = (Credentials.load(tmp_path / name) for name in ("coordinator", "worker"))
        wrapped: list[socket.socket] = []
        context = other.server_context()
        thread = threading.Thread(
            target=lambda: wrapped.append(context.wrap_socket(far, server_side=True))
        )
        thread.start()
        near = own.client_context().wrap_socket(near)
        thread.join(LIMIT)
        (far,) = wrapped
    yield near, far
    near.close()
    far.close()


@contextlib.contextmanager
def served(ends: tuple[Any, Any], limit: float = LIMIT) -> Iterator[CoordinatorConnection]:
    """Serve an `EchoService` at the worker's end; yield the coordinator's."""
    near, far = ends
    worker = WorkerConnection(
        EchoService(), BoundedChannel(BoundedStream(far, limit)), protocol(LIMIT)
    )
    thread = threading.Thread(target=worker.serve_all)
    thread.start()
    channel = BoundedChannel(BoundedStream(near, limit))
    coordinator = CoordinatorConnection(rpyc.VoidService(), channel, protocol(LIMIT))
    try:
        yield coordinator
    finally:
        coordinator.close()
        thread.join(LIMIT)
        assert not thread.is_alive()


def test_calls_of_any_size_from_several_threads(ends: tuple[Any, Any]) -> None:
    """Reads and writes of one TLS connection go on at once; big answers come back whole."""
    with served(ends) as connection:
        echo = connection.root.echo
        failures: list[BaseException] = []

        def call() -> None:
            try:
                for size in (0, 1, 16_000, 70_000, 1 << 20) * 4:
                    data = os.urandom(size)
                    assert echo(data) == data
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=call) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failures


def test_two_packets_in_one_record(ends: tuple[Any, Any]) -> None:
    """What TLS has read already is found although the system's poll shows nothing."""
    near, far = ends
    near.sendall(packet(b"one") + packet(b"two"))
    channel = BoundedChannel(BoundedStream(far, LIMIT))
    for expected in (b"one", b"two"):
        assert channel.poll(LIMIT) and channel.recv() == expected
    assert not channel.poll(0)


@pytest.mark.parametrize(
    "data",
    [
        packet(b"", length=MAX_PACKET + 1),
        packet(b"x" * 9, compressed=1),
        packet(b"", length=2**32 - 1),
    ],
    ids=["long", "compressed", "longest"],
)
def test_packets_that_end_the_connection(ends: tuple[Any, Any], data: bytes) -> None:
    near, far = ends
    near.sendall(data)
    with pytest.raises(EOFError, match="expected at most 4194304, plain"):
        BoundedChannel(BoundedStream(far, LIMIT)).recv()
    assert far.fileno() == -1


def test_half_a_packet_ends_in_time(ends: tuple[Any, Any]) -> None:
    near, far = ends
    near.sendall(packet(b"something")[:-3])
    with pytest.raises(EOFError, match=r"half a message within 0\.2 s"):
        BoundedChannel(BoundedStream(far, 0.2)).recv()


def test_an_end_that_does_not_read_is_not_waited_for(ends: tuple[Any, Any]) -> None:
    with pytest.raises(EOFError, match=r"half a message within 0\.2 s"):
        BoundedChannel(BoundedStream(ends[0], 0.2)).send(bytes(MAX_PACKET))


def ask(connection: CoordinatorConnection, handler: int, *arguments: Any) -> Any:
    return connection.sync_request(handler, *arguments)


def test_requests_that_are_not_served(ends: tuple[Any, Any]) -> None:
    with served(ends) as connection:
        root = connection.root
        assert root.echo("here") == "here"
        refused = set(range(1, 21)) - WorkerConnection._asked
        assert len(refused) == 14
        for handler in refused:
            with pytest.raises(ClusterError, match="the call was refused"):
                ask(connection, handler, root)
        for name in ("secret", "_local_root", "__class__", "__init__", "exposed_nothing"):
            with pytest.raises(ClusterError, match="the call was refused"):
                ask(connection, consts.HANDLE_GETATTR, root, name)
        with pytest.raises(ClusterError, match="are not followed"):
            root.echo(object())
        assert root.echo("still here") == "still here"


def test_an_error_of_the_other_end_is_text(ends: tuple[Any, Any]) -> None:
    """The other end can't make us raise an exception of its choice."""
    with served(ends) as connection:
        with pytest.raises(ClusterError, match=r"refused \(SystemExit: 7\)"):
            connection.root.leave()


def test_a_coordinator_serves_nothing(ends: tuple[Any, Any]) -> None:
    near, far = ends
    channel = BoundedChannel(BoundedStream(far, LIMIT))
    connection = CoordinatorConnection(
        rpyc.VoidService(), BoundedChannel(BoundedStream(near, LIMIT)), protocol(LIMIT)
    )
    request = brine.dump((5, (consts.HANDLE_GETROOT, (consts.LABEL_TUPLE, ()))))
    channel.send(bytes([consts.MSG_REQUEST]) + request)
    assert connection.poll(LIMIT)
    answer = channel.recv()
    assert answer[0] == consts.MSG_EXCEPTION and brine.load(answer[1:])[0] == 5
    connection.close()


@pytest.mark.parametrize(
    "content", [b"\x01\xff", b"\x02", b"\x07", b"\x01" + brine.TAG_TUP1 * 9000]
)
def test_a_malformed_packet_ends_the_connection(ends: tuple[Any, Any], content: bytes) -> None:
    with served(ends) as connection:
        connection._channel.send(content)
        with pytest.raises(EOFError):
            connection.root.echo(1)
