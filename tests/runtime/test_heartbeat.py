# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import pytest

from decnn_tvm.errors import InputError
from decnn_tvm.runtime.heartbeat import Pulse, Watch
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.runtime.transit import SEEN
from decnn_tvm.runtime.wire import ERROR, HEARTBEAT, Header, Message, WireError, decode
from decnn_tvm.transfers import HOST

CLUSTER = bytes(range(16))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def header(
    source: int, epoch: int = 0, movement: int = 1, cluster: bytes = CLUSTER, target: int = HOST
) -> Header:
    return Header(
        cluster=cluster, epoch=epoch, sample=0, movement=movement, source=source, target=target
    )


def message(source: int, **fields) -> Message:
    return Message(header(source, **fields), (memoryview(b"data"),))


def pair(clock: Clock) -> tuple[Watch, Watch]:
    """Return the watches of rank 0 and of the coordinator, in epoch 0."""
    worker, host = (Watch(Policy(), lambda: (5, 0.5), clock) for _ in range(2))
    worker.begin(header(0), [HOST, 1])
    host.begin(header(HOST), [0, 1])
    worker.restart_counts()
    return worker, host


def beat(sender: Watch, receiver: Watch, rank: int) -> None:
    assert not receiver.admit(decode(sender.beat(rank)))


def advance(clock: Clock, watches: tuple[Watch, ...], seconds: float) -> None:
    for _ in range(round(seconds / 0.1)):
        clock.now += 0.1
        for watch in watches:
            watch.tick()


@pytest.mark.parametrize(
    "pulse", [Pulse(), Pulse(sent=3, seconds=0.25, silent=(-1, 2), short=(4,))]
)
def test_a_pulse_survives_the_wire(pulse: Pulse) -> None:
    assert Pulse.decode(pulse.encode()) == pulse
    for damaged in (b"", pulse.encode()[:-1], pulse.encode() + b"x"):
        with pytest.raises(WireError, match="heartbeat of"):
            Pulse.decode(damaged)


def test_who_is_not_heard_is_silent() -> None:
    clock = Clock()
    worker, host = pair(clock)
    advance(clock, (worker, host), 0.9)
    assert host.silent() == ()
    beat(worker, host, HOST)
    advance(clock, (worker, host), 0.5)
    assert host.silent() == (1,)
    beat(worker, host, HOST)
    assert host.pulses()[0] == Pulse(samples=5, seconds=0.5, silent=(HOST, 1))
    assert worker.unheard(HOST) == pytest.approx(1.4)


def test_who_was_steady_is_missed_earlier() -> None:
    clock = Clock()
    worker, host = pair(clock)
    for _ in range(100):
        advance(clock, (worker, host), 0.1)
        beat(worker, host, HOST)
        host.admit(message(1))
    advance(clock, (host,), 0.3)
    assert host.silent() == ()
    beat(worker, host, HOST)  # 0.3 s late: from now on it may be as late again, and more
    advance(clock, (host,), 0.3)
    assert host.silent() == (1,)
    advance(clock, (host,), 0.5)
    assert host.silent() == (1,)
    advance(clock, (host,), 0.3)
    assert host.silent() == (0, 1)


def test_a_large_message_on_a_slow_link_is_no_silence() -> None:
    """After quiet seconds 0.4 s would be the limit, and 2.4 MB at 20 Mb/s take 0.96 s."""
    clock = Clock()
    worker, host = pair(clock)
    worker.begin(header(0), [HOST, 1], {HOST: 1_200_000, 1: 100_000})
    for _ in range(100):
        advance(clock, (worker, host), 0.1)
        beat(host, worker, 0)
        worker.admit(message(1, target=0))
    # What comes from both shares our link, 1.3 MB; what goes to both peers of one its own, 2.4 MB.
    advance(clock, (worker,), 0.9)
    assert worker.silent() == ()
    advance(clock, (worker,), 0.4)
    assert worker.silent() == (1,)
    advance(clock, (worker,), 0.2)
    assert worker.silent() == (HOST, 1)
    worker.begin(header(0, epoch=1), [HOST, 1], {HOST: 1 << 40})
    advance(clock, (worker,), 10.3)
    assert worker.silent() == (1,)
    advance(clock, (worker,), 0.2)
    assert worker.silent() == (HOST, 1)


def test_data_is_heard_too() -> None:
    clock = Clock()
    _, host = pair(clock)
    advance(clock, (host,), 0.9)
    assert host.admit(message(1))
    advance(clock, (host,), 0.5)
    assert host.silent() == (0,)


def test_frames_that_got_lost_show_at_the_next_heartbeat() -> None:
    clock = Clock()
    worker, host = pair(clock)
    for _ in range(3):
        worker.wrote(HOST)
    host.admit(message(0))
    host.admit(WireError("checksum differs"))
    assert host.short() == () and host.damaged == 1
    beat(worker, host, HOST)
    assert host.short() == (0,)
    host.admit(message(0))
    host.admit(message(0))
    assert host.short() == ()


def test_older_epochs_do_not_count() -> None:
    clock = Clock()
    worker, host = pair(clock)
    host.begin(header(HOST, epoch=2), [0, 1])
    worker.wrote(HOST)
    beat(worker, host, HOST)  # of epoch 0
    assert not host.pulses() and host.short() == ()
    assert host.admit(message(0, epoch=1))  # the link drops and counts it
    worker.begin(header(0, epoch=2), [HOST, 1])
    beat(worker, host, HOST)  # before the thread that sends has begun the epoch
    assert host.pulses()[0].sent == 0
    worker.restart_counts()
    worker.wrote(HOST)
    beat(worker, host, HOST)
    assert host.short() == (0,)


def test_strangers_and_later_epochs_are_dropped() -> None:
    _, host = pair(Clock())
    assert not host.admit(message(0, cluster=bytes(16)))
    assert not host.admit(message(0, epoch=1))
    assert not host.admit(message(0, movement=HEARTBEAT))  # no pulse in it
    assert host.damaged == 2
    assert not host.admit(message(0, target=1))  # went astray
    assert host.damaged == 3
    for source in (999, HOST):  # who is no peer, and who is the receiver itself
        assert not host.admit(message(source, movement=ERROR))
    assert host.damaged == 5


def test_heartbeats_before_the_first_epoch_are_dropped() -> None:
    watch = Watch(Policy())
    assert not watch.admit(message(0, movement=HEARTBEAT))
    assert watch.admit(message(0)) and not watch.listeners()


def test_a_process_that_stood_still_blames_nobody() -> None:
    clock = Clock()
    worker, host = pair(clock)
    advance(clock, (worker,), 5.0)  # the coordinator was frozen meanwhile
    host.tick()
    beat(worker, host, HOST)  # says that it does not hear the coordinator
    assert host.silent() == () and not host.pulses()
    advance(clock, (host,), 0.5)
    beat(worker, host, HOST)
    advance(clock, (host,), 0.6)
    assert host.silent() == (1,) and host.pulses()


def test_who_is_silent_for_long_gets_no_more_heartbeats() -> None:
    clock = Clock()
    _, host = pair(clock)
    advance(clock, (host,), 11.0)
    host.admit(message(1))
    assert host.listeners() == [1]


@pytest.mark.parametrize(
    "wrong",
    [
        *({"beat": 0.0}, {"beat": 0.6}, {"orphan": 0.5}, {"replicas": -1}, {"replicas": 1.5}),
        *({name: math.nan} for name in ("beat", "silence", "orphan", "patience")),
        *({"patience": -1.0}, {"patience": math.inf}, {"orphan": 10**400}),
        *({"slowest_link": 0}, {"slowest_link": math.inf}, {"slowest_link": "x"}),
        *({"beat": "x"}, {"patience": None}, {"silence": True}),
    ],
    ids=str,
)
def test_a_policy_that_cannot_work_is_refused(wrong) -> None:
    with pytest.raises(InputError, match="expected"):
        Policy(**wrong)


def test_how_long_large_messages_take_is_learnt_from_the_first() -> None:
    """A slow link gets the patience of the policy until its messages have shown what they need."""
    clock = Clock()
    host = Watch(Policy(slowest_link=32e6), clock=clock)
    host.begin(header(HOST), [0, 1], {0: 1_000_000, 1: 1_000_000})
    large = Message(header(0), (memoryview(bytes(600_000)),))

    def allowed() -> float:
        start = clock.now
        while 0 not in host.silent():
            advance(clock, (host,), 0.1)
        return clock.now - start

    # Two megabytes take half a second at 32 Mb/s.
    assert host.admit(message(0)) and allowed() == pytest.approx(1.5, abs=0.11)
    for _ in range(SEEN):
        assert host.admit(large)
        advance(clock, (host,), 0.3)
    assert host.admit(large) and allowed() == pytest.approx(1.5, abs=0.11)
    host.begin(header(HOST, epoch=1), [0, 1], {0: 1_000_000, 1: 1_000_000})
    for _ in range(300):
        advance(clock, (host,), 0.1)
        assert host.admit(Message(header(0, epoch=1), large.payload))
    assert allowed() == pytest.approx(0.4, abs=0.11)
