# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from decnn_tvm.errors import ClusterError
from decnn_tvm.runtime.engine import Engine, Link
from decnn_tvm.runtime.executor import Executor
from decnn_tvm.runtime.transport import MemoryNetwork, Transport, ZmqTransport
from decnn_tvm.runtime.wire import ERROR, Header, Message, WireError, encode
from decnn_tvm.transfers import HOST

CLUSTER = bytes(range(16))


def header(epoch: int = 0, cluster: bytes = CLUSTER, target: int = 1) -> Header:
    return Header(cluster=cluster, epoch=epoch, sample=3, movement=1, source=0, target=target)


@pytest.fixture(params=["memory", "zmq"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Transport, Transport]]:
    if request.param == "memory":
        network = MemoryNetwork([0, 1])
        yield network.transport(0), network.transport(1)
        return
    first, second = ZmqTransport(), ZmqTransport()
    first.connect({1: f"127.0.0.1:{second.port}"})
    second.connect({0: f"127.0.0.1:{first.port}"})
    yield first, second
    first.close()
    second.close()


def test_messages_arrive_whole_and_in_order(pair: tuple[Transport, Transport]) -> None:
    sender, receiver = pair
    big = np.arange(1 << 18, dtype=np.float32)
    for count in range(5):
        sender.send(1, encode(header(epoch=count), [big.data.cast("B"), b"tail"]))
    for count in range(5):
        message = receiver.receive(10.0)
        assert isinstance(message, Message)
        assert message.header == header(epoch=count)
        assert b"".join(message.payload) == big.tobytes() + b"tail"
    assert receiver.receive(0.0) is None


def test_noise_is_dropped_and_counted(pair: tuple[Transport, Transport]) -> None:
    sender, receiver = pair
    sender.send(1, [b"noise"])
    sender.send(1, encode(header(), [b"message"]))
    message = receiver.receive(10.0)
    assert isinstance(message, Message) and message.payload == (b"message",)
    assert receiver.traffic.refused == 1  # type: ignore[attr-defined]


def test_a_link_drops_older_epochs_and_strangers() -> None:
    network = MemoryNetwork([0, 1])
    link = Link(network.transport(1), CLUSTER, 2, 1)
    sender = network.transport(0)
    sender.send(1, encode(header(epoch=1), []))
    sender.send(1, encode(header(epoch=2), []))
    message = link.receive(1.0)
    assert message is not None and message.header.epoch == 2 and link.stale == 1
    sender.send(1, encode(header(cluster=bytes(16), epoch=2), []))
    sender.send(1, encode(header(target=0, epoch=2), []))
    assert link.receive(0.0) is None and link.stale == 3
    sender.send(1, encode(header(epoch=3), []))
    with pytest.raises(WireError, match="epoch 3"):
        link.receive(1.0)


def test_an_engine_reports_what_does_not_fit_to_the_coordinator(hand_net) -> None:
    network = MemoryNetwork([HOST, 0])
    executor = Executor(hand_net.package.plan, ((0, 1, 2, 3),), 0)
    engine = Engine(executor, lambda f, i: [], Link(network.transport(0), CLUSTER, 0, 0))
    thread = threading.Thread(target=engine.loop, args=(threading.Event(),))
    thread.start()
    network.transport(HOST).send(0, [b"noise"])
    network.transport(HOST).send(0, encode(header(target=0), []))
    message = network.transport(HOST).receive(10.0)
    thread.join(10.0)
    assert not thread.is_alive()
    assert isinstance(message, Message) and message.header.movement == ERROR
    assert b"movement 1 from 0: no such transfer" in bytes(message.payload[0])


def test_an_address_of_another_machine_cannot_be_bound() -> None:
    with pytest.raises(ClusterError, match="can't listen on"):
        ZmqTransport("192.0.2.1")
