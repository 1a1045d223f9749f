# SPDX-License-Identifier: Apache-2.0
"""Shares that were too much for a worker are remembered, also for who comes back in its place."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from decnn_tvm.errors import MemoryShortage
from decnn_tvm.runtime.local_cluster import LocalCluster
from decnn_tvm.runtime.mate import Mate
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.runtime.remote_worker import RemoteWorker
from decnn_tvm.runtime.roster import REMEMBERED, SETTLED, SOON, Roster
from decnn_tvm.runtime.session import Session
from tests.runtime.test_takeover import kill, stream_with, until

NAMES = ("worker 0", "worker 1")


class Scene:
    """Two workers with two groups each."""

    def __init__(self, hand_net) -> None:
        self.now = 0.0
        self.roster = Roster(
            hand_net.package, ((0, 1), (2, 3)), fixed=False, clock=lambda: self.now
        )
        for rank in (0, 1):
            self.roster.take_in(rank, mate())

    def counts(self) -> list[int]:
        self.roster.changed = True
        return [len(groups) for groups in self.roster.decide(NAMES)]


def mate() -> Mate:
    return Mate(worker=None, target="generic", address="127.0.0.1:1", memory=1 << 40)  # type: ignore[arg-type]


@pytest.fixture
def scene(hand_net) -> Scene:
    return Scene(hand_net)


@pytest.mark.parametrize("way", ["refuse", "suspect"])
def test_a_share_is_remembered_for_who_comes_back(scene: Scene, way: str) -> None:
    roster = scene.roster
    assert scene.counts() == [2, 2]
    getattr(roster, way)(0, 2)
    assert roster.changed
    roster.strike(0, "was ended by SIGKILL")
    assert roster.prospects(0, mate()) == (0,)
    roster.take_in(0, mate())
    getattr(roster, way)(0, 3)  # more than what was too much already
    assert scene.counts() == [1, 3]
    scene.now = REMEMBERED
    assert scene.counts() == [1, 3]
    scene.now += 1
    assert scene.counts() == [2, 2]


def test_who_falls_silent_twice_before_it_begins_has_too_much(scene: Scene) -> None:
    roster = scene.roster

    def stall() -> list[int]:
        roster.stalled(0, 2)
        roster.strike(0, "did not take part")
        roster.take_in(0, mate())
        return scene.counts()

    assert stall() == [2, 2]
    roster.begin(((0, 1), (2, 3)))  # it was in time
    assert stall() == [2, 2]
    assert stall() == [1, 3]


def test_who_lives_does_not_get_what_it_refused(scene: Scene) -> None:
    scene.roster.mates[0].refused = 2
    scene.now = 2 * REMEMBERED
    assert scene.counts() == [1, 3]


def test_a_suspicion_does_not_end_a_session(scene: Scene) -> None:
    scene.roster.suspect(0, 1)
    assert scene.counts() == [0, 4]
    scene.roster.strike(1, "is gone")
    assert scene.counts() == [4, 0]
    scene.roster.refuse(0, 4)
    with pytest.raises(MemoryShortage, match="worker 0 holds at most 3"):
        scene.counts()


def test_a_share_is_tried_by_results_or_time(scene: Scene) -> None:
    roster = scene.roster
    roster.begin(((0, 1, 2), (3,)))
    roster.results = SETTLED - 1
    assert (roster.untried(0), roster.untried(1), roster.untried(2)) == (3, 1, 0)
    scene.now += SOON + 1
    assert roster.untried(0) == 0
    scene.now -= SOON + 1
    roster.results = SETTLED
    assert roster.untried(0) == 0


def test_a_share_that_was_borne_before_is_not_tried_again(scene: Scene) -> None:
    """A worker that is killed soon after it came back gets again what it has always had."""
    roster = scene.roster
    roster.begin(((0, 1), (2, 3)))
    roster.results = SETTLED
    roster.begin(((0, 1, 2), (3,)))
    assert (roster.untried(0), roster.untried(1)) == (3, 0)
    roster.begin(((0, 1), (2, 3)))
    assert (roster.untried(0), roster.untried(1)) == (0, 0)


def deployed(cluster: LocalCluster, hand_net) -> Session:
    return cluster.deploy(hand_net.package, policy=Policy(rebalance=False))


def test_a_share_that_ends_a_worker_when_it_starts_is_given_once(hand_net, monkeypatch) -> None:
    """As where the system kills it for its memory."""
    ask: Any = RemoteWorker.ask
    with LocalCluster(2, timeout=30) as cluster, deployed(cluster, hand_net) as session:
        tries = []

        def starts(self: RemoteWorker, method: str, read: Any, *args: Any, **more: Any) -> Any:
            if method == "start" and self is cluster.workers[0]:
                tries.append(len(json.loads(args[0])["assignment"][0]))
                if tries[-1] > 1:
                    os.kill(cluster.process_ids[0], signal.SIGKILL)
            return ask(self, method, read, *args, **more)

        monkeypatch.setattr(RemoteWorker, "ask", starts)
        stream_with(session, hand_net, lambda: kill(cluster, 0))
        until(session, hand_net, lambda: all(session.assignment))
        assert [len(groups) for groups in session.assignment] == [1, 3]
        assert tries == [2, 1]


@pytest.mark.parametrize(("results", "counts"), [(1, [1, 3]), (20, [2, 2])])
def test_a_share_that_ends_a_worker_soon(hand_net, results: int, counts: list[int]) -> None:
    x = hand_net.samples(1)[0]
    with LocalCluster(2, timeout=30) as cluster, deployed(cluster, hand_net) as session:
        for _ in range(results):
            session.run(x)
        kill(cluster, 0)
        until(session, hand_net, lambda: not session.assignment[0])
        until(session, hand_net, lambda: all(session.assignment))
        assert [len(groups) for groups in session.assignment] == counts
