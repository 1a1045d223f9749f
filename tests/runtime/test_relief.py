# SPDX-License-Identifier: Apache-2.0
"""A device that is slow gets fewer groups, down to none, and some again when that is long ago."""

from __future__ import annotations

import pytest

from decnn_tvm.runtime.heartbeat import Pulse
from decnn_tvm.runtime.mate import Mate
from decnn_tvm.runtime.pace import HALF_LIFE, LONGEST_HALF_LIFE, SOUND, Spare
from decnn_tvm.runtime.relief import Relief
from decnn_tvm.runtime.roster import Roster

NAMES = ("worker 0", "worker 1")
USUAL = 0.01
STEP = 0.5
RATE = 20
"""Samples per second."""


class Scene:
    """Two workers with two of four groups each, and the seconds that a group takes each of them."""

    def __init__(self, hand_net) -> None:
        self.now, self.took = 0.0, [USUAL, USUAL]
        self.samples, self.busy = 0, [0.0, 0.0]
        self.roster = Roster(
            hand_net.package, ((0, 1), (2, 3)), fixed=False, clock=lambda: self.now
        )
        for rank in (0, 1):
            self.roster.take_in(rank, mate())
        self.roster.changed = False
        self.relief = Relief(self.roster, "channels", on=True)
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
            self.samples += int(RATE * STEP)
            for rank, count in enumerate(self.counts):
                self.busy[rank] += RATE * STEP * count * self.took[rank]
            pulses = {r: Pulse(samples=self.samples, seconds=s) for r, s in enumerate(self.busy)}
            if reason := self.relief.look(pulses, self.now):
                assert self.relief.look(pulses, self.now) == reason
                self.roster.begin(self.roster.decide(NAMES))
                self.relief.begin(self.now)
                reasons.append(reason)
        return reasons


def mate() -> Mate:
    return Mate(worker=None, target="generic", address="127.0.0.1:1", memory=1 << 40)  # type: ignore[arg-type]


@pytest.fixture
def scene(hand_net) -> Scene:
    scene = Scene(hand_net)
    scene.took[0] = 8 * USUAL
    (reason,) = scene.work(15.0)
    assert "stays slow" in reason and scene.counts == [0, 4]
    return scene


def test_who_is_fast_again_gets_its_groups_back(scene: Scene) -> None:
    scene.took[0] = USUAL
    first, second = scene.work(60.0)
    assert first == "worker 0: slow some time ago, tried again"
    assert "stays slow (ms per sample and group: worker 0 10.00, worker 1 10.00)" in second
    assert scene.counts == [2, 2]


def test_who_stays_slow_is_tried_ever_more_rarely(scene: Scene) -> None:
    tries = [scene.work(HALF_LIFE * 2**n).count("worker 0: slow some time ago, tried again")
             for n in range(8)]  # fmt: skip
    assert 3 <= sum(tries) <= 8 and max(tries) <= 1


def test_who_is_lost_meanwhile_waits_no_longer(scene: Scene) -> None:
    spare = scene.relief._spares[0]
    scene.roster.strike(0, "is silent")
    scene.roster.begin(scene.roster.decide(NAMES))
    scene.relief.begin(scene.now)
    scene.work(5.0)
    scene.roster.take_in(0, mate())
    scene.roster.begin(scene.roster.decide(NAMES))
    scene.relief.begin(scene.now)
    assert scene.counts == [0, 4] and scene.relief._spares[0] == spare


def test_what_is_remembered_fades_slower_where_it_comes_again() -> None:
    spare = Spare(100.0, 8.0)
    assert spare.seconds_at(100.0) == 8.0
    assert spare.seconds_at(100.0 + 3 * HALF_LIFE) == pytest.approx(1.0)
    soon = spare.again(101.0, 4.0)
    assert soon == Spare(101.0, 4.0, 2 * HALF_LIFE)
    assert soon.again(101.0 + SOUND * 2 * HALF_LIFE, 4.0).half_life == HALF_LIFE
    for n in range(20):
        soon = soon.again(102.0 + n, 4.0)
    assert soon.half_life == LONGEST_HALF_LIFE


def test_nothing_is_done_where_that_is_not_wanted(hand_net) -> None:
    scene = Scene(hand_net)
    scene.relief.on = False
    scene.took[0] = 8 * USUAL
    assert scene.work(30.0) == []
