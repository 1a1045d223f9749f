# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from decnn_tvm.errors import ClusterError
from decnn_tvm.runtime.mate import Mate
from decnn_tvm.runtime.recruiter import FIRST_PAUSE, LONGEST_PAUSE, STEADY, Recruiter, pause


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

    def enlist(self, rank: int, cancelled: threading.Event) -> Mate:
        assert self.go.acquire(timeout=30)
        try:
            if self.mate is None:
                raise ClusterError("nobody answers")
            return self.mate
        finally:
            self.tried.release()


@pytest.fixture
def outside() -> Outside:
    return Outside()


@pytest.fixture
def recruiter(outside: Outside) -> Iterator[Recruiter]:
    made = Recruiter(outside.enlist)
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
    assert recruiter._lost[1].due == FIRST_PAUSE + pause(1)
    outside.mate = mate()
    assert attempt(recruiter, outside, 10.0) == {1: outside.mate}
    assert recruiter.arrived(100.0) == {}


def test_a_worker_that_stays_is_tried_at_once_the_next_time(recruiter, outside) -> None:
    outside.mate = mate()
    recruiter.lost(1, 0.0)
    assert attempt(recruiter, outside, 1.0)
    recruiter.lost(1, 1.0 + STEADY / 2)  # it did not stay
    assert recruiter._lost[1].due == 1.0 + STEADY / 2 + pause(1)
    assert attempt(recruiter, outside, 10.0)
    recruiter.lost(1, 10.0 + STEADY)
    assert recruiter._lost[1].due == 10.0 + STEADY + pause(0)


def test_pauses_have_an_end() -> None:
    assert [pause(n) for n in range(3)] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pause(1000) == LONGEST_PAUSE


@pytest.mark.parametrize("way", ["close", "forget"])
def test_who_comes_back_too_late_is_let_go(outside, way: str) -> None:
    recruiter = Recruiter(outside.enlist)
    outside.mate = mate()
    recruiter.lost(1, 0.0)
    assert recruiter.arrived(1.0) == {}
    if way == "forget":
        recruiter.forget(1)
    outside.go.release()
    recruiter.close()
    assert outside.mate.worker.hung_up
