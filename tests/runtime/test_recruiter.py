# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from decnn_tvm.errors import ClusterError, PackageError
from decnn_tvm.runtime.mate import Mate
from decnn_tvm.runtime.recruiter import FIRST_PAUSE, LONGEST_PAUSE, STEADY, Recruiter, pause

SILENCE = 2.0
SOUND = STEADY * SILENCE


class Worker:
    def __init__(self) -> None:
        self.hung_up = False

    def disconnect(self) -> None:
        self.hung_up = True


class Outside:
    """Answers attempts when told to."""

    def __init__(self) -> None:
        self.go, self.tried = threading.Semaphore(0), threading.Semaphore(0)
        self.mate: Mate | None = None
        self.trouble: Exception = ClusterError("nobody answers")

    def enlist(self, rank: int, cancelled: threading.Event) -> Mate:
        assert self.go.acquire(timeout=30)
        try:
            if self.mate is None:
                raise self.trouble
            return self.mate
        finally:
            self.tried.release()


@pytest.fixture
def outside() -> Outside:
    return Outside()


@pytest.fixture
def recruiter(outside: Outside) -> Iterator[Recruiter]:
    made = Recruiter(outside.enlist, SILENCE)
    yield made
    made.close()


def mate() -> Mate:
    return Mate(worker=Worker(), target="here", address="127.0.0.1:1", memory=1)  # type: ignore[arg-type]


def attempt(recruiter: Recruiter, outside: Outside, now: float) -> dict[int, Mate]:
    """Let the attempt that is due at `now` end, and return what came of it."""
    assert recruiter.arrived(now) == {}
    outside.go.release()
    assert outside.tried.acquire(timeout=30)
    # The thread of the pool notes the outcome after the call has returned.
    running = recruiter._lost[1].attempt
    assert running is not None
    running.exception(timeout=30)
    return recruiter.arrived(now)


def test_pauses_grow_and_a_worker_that_comes_back_is_taken_in(recruiter, outside) -> None:
    recruiter.lost(1, 0.0)
    assert recruiter.arrived(FIRST_PAUSE / 2) == {} and recruiter._lost[1].attempt is None
    assert attempt(recruiter, outside, FIRST_PAUSE) == {}
    assert recruiter._lost[1].due == FIRST_PAUSE + pause(FIRST_PAUSE)
    outside.mate = mate()
    assert attempt(recruiter, outside, 10.0) == {1: outside.mate}
    assert recruiter.arrived(100.0) == {}


@pytest.mark.parametrize("trouble", [TypeError("foreign"), OSError("disk"), PackageError("old")])
def test_any_trouble_is_tried_again(recruiter, outside, trouble: Exception) -> None:
    outside.trouble = trouble
    recruiter.lost(1, 0.0)
    assert attempt(recruiter, outside, FIRST_PAUSE) == {}
    outside.mate = mate()
    assert attempt(recruiter, outside, 10.0) == {1: outside.mate}


def test_a_worker_that_stays_is_tried_at_once_the_next_time(recruiter, outside) -> None:
    outside.mate = mate()
    recruiter.lost(1, 0.0)
    assert attempt(recruiter, outside, 2.0)
    recruiter.lost(1, 2.0 + SOUND / 2)  # it did not stay
    assert recruiter._lost[1].due == 2.0 + SOUND / 2 + pause(2.0 + SOUND / 2) > 5.0
    assert attempt(recruiter, outside, 10.0)
    recruiter.lost(1, 10.0 + SOUND)  # less than its last pause
    assert recruiter._lost[1].due == 10.0 + SOUND + pause(10.0 + SOUND)
    assert attempt(recruiter, outside, 20.0)
    recruiter.lost(1, 20.0 + pause(20.0))
    assert recruiter._lost[1].due == 20.0 + pause(20.0) + FIRST_PAUSE


def test_how_soon_a_loss_is_noticed_does_not_keep_a_worker_away(recruiter, outside) -> None:
    outside.mate = mate()
    for noticed in (0.1, 0.4, 1.0):
        now = 100.0
        recruiter.lost(1, now)
        while now < 102.5:
            now = recruiter._lost[1].due
            assert attempt(recruiter, outside, now)
            recruiter.lost(1, now := now + noticed)
        assert now < 102.5 + 2.5 / 2 + noticed
        recruiter.forget(1)


def test_pauses_have_an_end() -> None:
    assert pause(0.0) == FIRST_PAUSE and pause(1e9) == LONGEST_PAUSE
    assert FIRST_PAUSE < pause(1.0) < pause(2.0) < 2.0


@pytest.mark.parametrize("way", ["close", "forget"])
def test_who_comes_back_too_late_is_let_go(outside, way: str) -> None:
    recruiter = Recruiter(outside.enlist, SILENCE)
    outside.mate = mate()
    recruiter.lost(1, 0.0)
    assert recruiter.arrived(1.0) == {}
    if way == "forget":
        recruiter.forget(1)
    outside.go.release()
    recruiter.close()
    assert outside.mate.worker.hung_up


def test_who_is_back_waits_to_be_taken_in(recruiter, outside) -> None:
    outside.mate = mate()
    recruiter.lost(1, 0.0)
    assert recruiter.waiting(1.0) == []
    outside.go.release()
    running = recruiter._lost[1].attempt
    assert running is not None and running.result(timeout=30) is outside.mate
    assert recruiter.waiting(2.0) == recruiter.waiting(3.0) == [1]
    assert recruiter.arrived(4.0) == {1: outside.mate}
    assert recruiter.waiting(5.0) == []
