# SPDX-License-Identifier: Apache-2.0
"""Counters and timelines of a session whose workers are lost, or have clocks of their own."""

from __future__ import annotations

import itertools
import os
import signal
import time
from typing import Any

import pytest

from decnn_tvm.runtime.inquiry import clock_offset
from decnn_tvm.runtime.local_cluster import LocalCluster
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.runtime.remote_worker import RemoteWorker
from decnn_tvm.testing.boards import wait_until


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=str)
def test_counters_of_a_worker_that_is_lost(hand_net, number: signal.Signals) -> None:
    """Nobody has noticed yet: the answer is that of the others, and the session goes on."""
    samples = hand_net.samples(2)
    with LocalCluster(2, timeout=20, restart=False) as cluster:
        with cluster.deploy(hand_net.package, policy=Policy(rejoin=False)) as session:
            hand_net.check(samples[0], session.run(samples[0]))
            os.kill(cluster.process_ids[1], number)
            there, lost = session.stats()
            assert there.samples == 1 and there.weight_bytes > 0
            assert lost.samples == lost.weight_bytes == 0
            assert {event.rank for event in session.timeline()} == {0}
            hand_net.check(samples[1], session.run(samples[1]))
            assert session.assignment == ((0, 1, 2, 3), ())


def test_a_timeline_has_one_clock(hand_net, monkeypatch: pytest.MonkeyPatch) -> None:
    """Worker 1 is given the clock of a machine that has been up for much longer."""
    call, ahead = RemoteWorker.call, 1e5

    def shifted(self: RemoteWorker, method: str, *args: Any, **options: Any) -> Any:
        answer = call(self, method, *args, **options)
        if method == "observe" and "worker 1" in self.name:
            answer["at"] += ahead
        if method == "status" and "worker 1" in self.name:
            answer["timeline"] = [(*i[:3], i[3] + ahead, i[4] + ahead) for i in answer["timeline"]]
        return answer

    x = hand_net.samples(1)[0]
    with LocalCluster(2, timeout=20) as cluster, cluster.deploy(hand_net.package) as session:
        monkeypatch.setattr(RemoteWorker, "call", shifted)
        start = time.monotonic()
        session.run(x)
        # The last stage is noted when its message has left, which may be a moment later.
        wait_until(lambda: len(session.timeline()) == 4)
        events, end = session.timeline(), time.monotonic()
    assert {event.rank for event in events} == {0, 1}
    assert all(start - 1 < event.start <= event.end < end + 1 for event in events)


def test_the_quickest_answer_tells_the_offset() -> None:
    now = itertools.count(100.0, 0.5)
    # Read 0.1 s before the middle of a round trip of 0.5 s; the first took longer.
    delays = iter((40.0, 0.0, 0.0, 0.0, 0.0))
    elapsed = 0.0

    def clock() -> float:
        return next(now) + elapsed

    def read() -> float:
        nonlocal elapsed
        elapsed += next(delays)
        return 7000.0

    assert clock_offset(read, clock) == pytest.approx(141.25 - 7000.0)


def test_clocks_that_may_be_one_are_one() -> None:
    assert clock_offset(time.monotonic) == 0.0
    for there, offset in ((12.0, -1.5), (10.75, 0.0)):
        now = itertools.count(10.0)
        assert clock_offset(lambda there=there: there, lambda now=now: next(now)) == offset
