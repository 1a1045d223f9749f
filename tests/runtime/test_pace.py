# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from decnn_tvm.runtime.membership import Member, reassign
from decnn_tvm.runtime.pace import (
    WINDOW_SAMPLES,
    WINDOW_SECONDS,
    WINDOWS,
    Reading,
    Trend,
    observe,
    wins,
    with_speeds,
)

MEMBERS = [Member(rank=r, groups=g, counts=(1, 2, 3, 4)) for r, g in enumerate([(0, 1), (2, 3)])]


def after(windows: list[tuple[float, float]]) -> Trend:
    """Return the trend after windows in which the two devices took these times per sample."""
    trend, now, count = Trend(0.0), 0.0, 0
    seconds = [0.0, 0.0]
    trend = observe(trend, {r: Reading(0, 0.0) for r in range(2)}, MEMBERS, now)
    for times in windows:
        now, count = now + WINDOW_SECONDS, count + WINDOW_SAMPLES
        seconds = [s + WINDOW_SAMPLES * t for s, t in zip(seconds, times, strict=True)]
        readings = {r: Reading(count, s) for r, s in enumerate(seconds)}
        trend = observe(trend, readings, MEMBERS, now)
    return trend


def test_a_device_that_stays_slow_is_noticed() -> None:
    assert not after([(0.01, 0.03)] * (WINDOWS - 1)).settled
    trend = after([(0.01, 0.03)] * WINDOWS)
    assert trend.settled
    assert reassign(with_speeds(MEMBERS, trend.seconds), 4) == {0: (0, 1, 3), 1: (2,)}


def test_a_replica_takes_as_long_with_any_number_of_turns() -> None:
    start = observe(Trend(0.0), {r: Reading(0, 0.0) for r in range(2)}, MEMBERS, 0.0)
    count = WINDOW_SAMPLES
    readings = {r: Reading(count, count * 0.5) for r in range(2)}
    trend = observe(start, readings, MEMBERS, WINDOW_SECONDS, whole=True)
    assert trend.seconds == {0: 0.5, 1: 0.5}
    assert observe(start, readings, MEMBERS, WINDOW_SECONDS).seconds == {0: 0.25, 1: 0.25}


def test_a_short_delay_is_not() -> None:
    slow, usual = (0.01, 0.03), (0.01, 0.01)
    assert not after([slow] * (WINDOWS - 1) + [usual] + [slow] * (WINDOWS - 1)).settled


def test_a_small_difference_is_not() -> None:
    assert not after([(0.010, 0.013)] * 10).settled


def test_a_window_needs_time_and_samples() -> None:
    start = Trend(0.0, {r: Reading(0, 0.0) for r in range(2)})
    many = {r: Reading(100, 1.0 + r) for r in range(2)}
    assert observe(start, many, MEMBERS, WINDOW_SECONDS / 2) is start
    few = {0: Reading(100, 1.0), 1: Reading(WINDOW_SAMPLES - 1, 1.0)}
    assert observe(start, few, MEMBERS, 2 * WINDOW_SECONDS) is start
    assert observe(start, {0: Reading(100, 1.0)}, MEMBERS, 2 * WINDOW_SECONDS) is start


def test_no_change_where_nothing_else_is_possible() -> None:
    only = [Member(rank=r, groups=(r,), counts=(1,)) for r in range(2)]
    assert not wins({0: 1.0, 1: 9.0}, only)


def test_who_has_no_speed_counts_as_the_fastest() -> None:
    seconds = [m.seconds for m in with_speeds(MEMBERS, {1: 0.5})]
    assert seconds == [0.5, 0.5]
