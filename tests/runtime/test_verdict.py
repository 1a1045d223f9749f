# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from decnn_tvm.runtime.heartbeat import Pulse
from decnn_tvm.runtime.verdict import Sight, Verdict, judge
from decnn_tvm.transfers import HOST

GROUPS = {0: (0, 1), 1: (2,), 2: (3,)}


def verdict(**sight) -> Verdict:
    return judge(Sight(groups=GROUPS, **sight))


def test_all_is_well() -> None:
    assert verdict() == Verdict({})
    assert verdict(pulses={r: Pulse(samples=3) for r in GROUPS}) == Verdict({})


def test_the_dead_the_silent_and_the_deaf_are_lost() -> None:
    assert verdict(ended={1: "was killed"}, silent=(2, 1)).lost == {
        1: "was killed",
        2: "is silent",
    }
    assert verdict(pulses={0: Pulse(silent=(HOST,))}).lost == {0: "does not hear the coordinator"}
    assert verdict(ended={7: "was lost before"}, silent=(7,)).lost == {}


def test_of_two_that_do_not_hear_each_other_the_smaller_share_goes() -> None:
    both = {0: Pulse(silent=(1,)), 1: Pulse(silent=(0,))}
    assert verdict(pulses=both).lost == {1: "is cut off from worker 0"}
    assert verdict(pulses={2: Pulse(silent=(1,))}).lost == {2: "is cut off from worker 1"}


def test_who_is_cut_off_from_most_goes_alone() -> None:
    pulses = {1: Pulse(silent=(0,)), 2: Pulse(silent=(0,)), 0: Pulse(silent=(1, 2))}
    assert verdict(pulses=pulses).lost == {0: "is cut off from worker 1, worker 2"}


def test_a_link_to_the_lost_blames_nobody() -> None:
    assert [*verdict(silent=(0,), pulses={1: Pulse(silent=(0,), short=(0,))}).lost] == [0]
    assert not verdict(silent=(0,), pulses={1: Pulse(short=(0,))}).resync


def test_lost_frames_cost_an_epoch_alone() -> None:
    seen = verdict(short=(2,), pulses={1: Pulse(short=(0,))})
    assert not seen.lost
    assert seen.resync == (
        "the coordinator lacks frames of worker 2; worker 1 lacks frames of worker 0"
    )
