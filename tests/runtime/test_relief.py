# SPDX-License-Identifier: Apache-2.0
"""A device that is slow gets fewer groups, down to none, and some again when that is long ago."""

from __future__ import annotations

from itertools import pairwise

import pytest

from decnn_tvm.runtime.heartbeat import Pulse
from decnn_tvm.runtime.pace import HALF_LIFE, LONGEST_HALF_LIFE, Spare
from decnn_tvm.runtime.relief import Relief
from decnn_tvm.runtime.roster import Roster
from tests.runtime.test_roster import mate

USUAL, SLOW = 0.01, 0.08
STEP = 0.5
EVEN = {2: ((0, 1), (2, 3)), 3: ((0, 1), (2,), (3,))}
WITHOUT = {2: [0, 4], 3: [0, 2, 2]}
"""Groups of each worker where the first is slow."""


class Scene:
    """Workers of four groups that compute all the time, and the seconds that a group takes each."""

    def __init__(self, hand_net, workers: int, *, on: bool = True) -> None:
        self.now, self.took = 0.0, [USUAL] * workers
        self.samples, self.busy = 0.0, [0.0] * workers
        self.names = [f"worker {rank}" for rank in range(workers)]
        self.roster = Roster(hand_net.package, EVEN[workers], fixed=False, clock=lambda: self.now)
        for rank in range(workers):
            self.roster.take_in(rank, mate())
        self.roster.changed = False
        self.relief = Relief(self.roster, "channels", on=on)
        self.relief.begin(self.now)

    @property
    def counts(self) -> list[int]:
        return [len(groups) for groups in self.roster.assignment]

    def work(self, seconds: float) -> list[str]:
        """Let them compute; return why there were new epochs."""
        reasons = []
        end = self.now + seconds
        while self.now < end:
            self.now += STEP
            loads = [count * took for count, took in zip(self.counts, self.took, strict=True)]
            done = STEP / max(loads)
            self.samples += done
            self.busy = [busy + done * load for busy, load in zip(self.busy, loads, strict=True)]
            pulses = {
                rank: Pulse(samples=int(self.samples), seconds=busy)
                for rank, busy in enumerate(self.busy)
                if rank in self.roster.mates
            }
            if reason := self.relief.look(pulses, self.now):
                assert self.relief.look(pulses, self.now) == reason
                self.begin()
                reasons.append(reason)
        return reasons

    def begin(self) -> None:
        """Begin another epoch."""
        self.roster.begin(self.roster.decide(self.names))
        self.relief.begin(self.now)


@pytest.fixture(params=[2, 3])
def scene(hand_net, request) -> Scene:
    """Return workers of which the first has lost all its groups."""
    scene = Scene(hand_net, request.param)
    scene.took[0] = SLOW
    (reason,) = scene.work(15.0)
    assert reason.startswith("speeds have changed (ms per sample and group: worker 0 ")
    assert scene.counts == WITHOUT[request.param]
    return scene


def test_who_is_fast_again_gets_its_groups_back(scene: Scene) -> None:
    scene.took[0] = USUAL
    assert scene.work(4 * HALF_LIFE)[0] == "worker 0: slow some time ago, tried again"
    assert sorted(scene.counts) == sorted(len(groups) for groups in EVEN[len(scene.names)])
    assert not scene.relief._spares  # and where it is slow once more, that is new


@pytest.mark.parametrize("took", [SLOW, 100 * SLOW], ids=["slow", "very slow"])
def test_who_stays_slow_is_tried_ever_more_rarely(scene: Scene, took: float) -> None:
    scene.took[0] = took
    times = []
    for _ in range(1200):
        start = scene.now
        times += [start] * scene.work(5.0).count("worker 0: slow some time ago, tried again")
    pauses = [after - before for before, after in pairwise(times)]
    assert 3 <= len(times) <= 8
    assert pauses == sorted(pauses) and pauses[-1] > 4 * HALF_LIFE


def test_who_is_lost_meanwhile_waits_no_longer(scene: Scene) -> None:
    spare = scene.relief._spares[0]
    scene.roster.strike(0, "is silent")
    scene.begin()
    scene.work(5.0)
    scene.roster.take_in(0, mate())
    scene.begin()
    assert scene.counts == WITHOUT[len(scene.names)] and scene.relief._spares[0] == spare


def test_who_has_no_group_for_another_reason_is_not_slow(hand_net) -> None:
    scene = Scene(hand_net, 3)
    scene.work(10.0)
    scene.roster.refuse(0, 1)
    scene.begin()
    assert scene.counts[0] == 0 and scene.work(100.0) == []


def test_what_is_remembered_fades() -> None:
    spare = Spare(100.0, 8.0)
    assert spare.seconds_at(100.0) == 8.0
    assert spare.seconds_at(100.0 + 3 * HALF_LIFE) == pytest.approx(1.0)
    again = spare.again(101.0, 4.0)
    assert again == Spare(101.0, 4.0, 2 * HALF_LIFE)
    for n in range(20):
        again = again.again(102.0 + n, 4.0)
    assert again.half_life == LONGEST_HALF_LIFE


def test_nothing_is_done_where_that_is_not_wanted(hand_net) -> None:
    scene = Scene(hand_net, 2, on=False)
    scene.took[0] = SLOW
    assert scene.work(30.0) == []
