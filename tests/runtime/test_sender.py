# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import pytest
import zmq

from decnn_tvm.runtime import sender
from decnn_tvm.runtime.curve import Door
from decnn_tvm.runtime.heartbeat import Pulse, Watch
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.runtime.sender import Sender
from decnn_tvm.runtime.traffic import Traffic
from decnn_tvm.runtime.wire import HEARTBEAT, Header, Message, WireError, decode, encode
from decnn_tvm.testing.boards import wait_until

LARGE = 8 << 20
"""Bytes that no socket takes while nobody reads."""
OWN = Header(cluster=bytes(16), epoch=0, sample=0, movement=0, source=0, target=0)


class Line:
    """A sender, and a peer that reads when it is told to."""

    def __init__(self, context: zmq.Context, ends: contextlib.ExitStack) -> None:
        self.refused: list[WireError] = []
        self.watch, self.traffic = Watch(Policy()), Traffic()
        self.pull = ends.enter_context(context.socket(zmq.PULL))
        self.pull.setsockopt(zmq.RCVHWM, 1)
        self.address = f"127.0.0.1:{self.pull.bind_to_random_port('tcp://127.0.0.1')}"
        door = ends.enter_context(contextlib.closing(Door(context, encrypt=False)))
        self.sender = Sender(context, door, self.watch, self.traffic, self.refused.append)
        ends.callback(self.sender.close, 5.0)

    def send(self, sample: int, size: int = LARGE) -> None:
        header = Header(cluster=bytes(16), epoch=0, sample=sample, movement=1, source=0, target=1)
        self.sender.send(1, encode(header, [bytes(size)]), order=sample)

    def settle(self) -> None:
        """Wait until the thread has taken all that it was given."""
        wait_until(self.sender._given.empty)

    def receive(self) -> Message:
        assert self.pull.poll(10_000)
        return decode(self.pull.recv_multipart())


@pytest.fixture
def line() -> Iterator[Line]:
    with contextlib.ExitStack() as ends:
        context = ends.enter_context(zmq.Context())
        yield Line(context, ends)


def test_the_oldest_sample_overtakes(line: Line) -> None:
    line.sender.meet({1: line.address})
    # More than the five that the sockets of both ends may take, however late they take the fifth.
    sevens = [7] * 10
    for sample in (*sevens, 9, 8, 3):
        line.send(sample)
    line.settle()
    samples = [line.receive().header.sample for _ in range(13)]
    assert sorted(samples) == [3, *sevens, 8, 9]
    assert samples.index(3) < 6 and samples[-2:] == [8, 9]


def test_a_heartbeat_waits_for_no_data_and_counts_what_left_before(line: Line) -> None:
    line.watch.begin(OWN, [1])
    line.sender.meet({1: line.address})
    for sample in range(6):
        line.send(sample)
    line.settle()
    wait_until(lambda: line.sender._peers[1].beat)
    kinds = []
    while kinds.count(1) < 6:
        message = line.receive()
        if message.header.movement == HEARTBEAT:
            (sent,) = {int.from_bytes(part[:8], "little") for part in message.payload}
            assert sent == kinds.count(1)
        kinds.append(message.header.movement)
    assert HEARTBEAT in kinds[:-1]


def test_a_heartbeat_goes_along_with_a_message(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    # A period so long that no heartbeat but the first comes by itself, and any later one may ride.
    line.watch.policy = Policy(beat=60.0, silence=300.0, orphan=300.0)
    monkeypatch.setattr(sender, "RIDE", 0.0)
    line.watch.begin(OWN, [1])
    line.sender.meet({1: line.address})
    assert line.receive().header.movement == HEARTBEAT
    # One that finds no room is left out, so it may take more than one message.
    deadline, sent = time.monotonic() + 30.0, 0
    while not line.pull.poll(20):
        assert time.monotonic() < deadline
        line.send(sent, size=1)
        assert line.receive().header.sample == sent
        sent += 1
    beat = line.receive()
    assert beat.header.movement == HEARTBEAT
    assert Pulse.decode(b"".join(beat.payload)).sent == sent > 0


def test_what_waits_is_dropped_with_its_epoch(line: Line) -> None:
    line.sender.meet({1: line.address})
    for sample in range(8):
        line.send(sample)
    line.settle()
    line.sender.meet({1: line.address})
    line.send(100, size=1)
    samples = []
    while not samples or samples[-1] != 100:
        samples.append(line.receive().header.sample)
    assert samples[:-1] == list(range(len(samples) - 1)) and len(samples) < 8


def test_what_zeromq_refuses_counts_as_sent(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the receiver misses it: nobody else would ever ask for it."""
    line.watch.begin(OWN, [1])
    line.sender.meet({1: line.address})
    line.send(0, size=1)
    while line.receive().header.movement == HEARTBEAT:
        pass
    send_one, refusals = Sender._send_one, [zmq.ZMQError(zmq.EFSM)]

    def refusing(own: Sender, rank: int, peer: sender.Peer) -> None:
        if refusals and not peer.beat:
            raise refusals.pop()
        send_one(own, rank, peer)

    monkeypatch.setattr(Sender, "_send_one", refusing)
    line.send(1, size=1)
    wait_until(lambda: bool(line.refused))
    sent, deadline = 0, time.monotonic() + 10.0
    while sent < 2:
        assert time.monotonic() < deadline
        beat = line.receive()
        assert beat.header.movement == HEARTBEAT
        sent = Pulse.decode(b"".join(beat.payload)).sent
    assert sent == 2


def test_nobody_is_met_under_an_unknown_rank(line: Line) -> None:
    line.send(0, size=1)
    wait_until(lambda: bool(line.refused))
    assert "rank 1: no such peer" in str(line.refused[0])
