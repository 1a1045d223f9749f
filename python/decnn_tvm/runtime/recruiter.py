# SPDX-License-Identifier: Apache-2.0
"""Lost workers are tried again in the background, with growing pauses.

An attempt connects, opens a session and sends files, none of which may hold up the stream; the
worker waits, once it is back, for who asks `arrived`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from decnn_tvm.errors import ClusterError, DecnnError
from decnn_tvm.runtime.mate import Mate

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0
PATIENCE = 0.5
"""Part of the time since a worker was lost that passes before it is tried again: it is back when
its trouble has lasted half as long again, however soon its loss is noticed each time."""
STEADY = 1.5
"""Times `decnn_tvm.runtime.policy.Policy.silence`: a worker that has come back and stays so long is
sound again, if it was not gone for long. A link that is still cut shows within one silence."""
ATTEMPTS = 2
"""Attempts at once."""


@dataclass(slots=True)
class _Lost:
    due: float
    attempt: Future[Mate] | None = None


def pause(seconds: float) -> float:
    """Return the seconds to wait where a worker's trouble has lasted so long."""
    return min(LONGEST_PAUSE, max(FIRST_PAUSE, PATIENCE * seconds))


class Recruiter:
    """Tries lost workers again.

    Parameters
    ----------
    enlist : callable
        ``enlist(rank, cancelled)`` gives the worker with an open session and its files; runs in a
        thread of this object.
    silence : float
        Seconds in which the loss of a worker is noticed, at most.
    """

    def __init__(self, enlist: Callable[[int, threading.Event], Mate], silence: float) -> None:
        self._enlist, self._steady = enlist, STEADY * silence
        self._cancelled = threading.Event()
        self._pool = ThreadPoolExecutor(ATTEMPTS, thread_name_prefix="decnn-recruit")
        self._lost: dict[int, _Lost] = {}
        self._since: dict[int, float] = {}
        self._arrived_at: dict[int, float] = {}

    def lost(self, rank: int, now: float) -> None:
        """Note that a worker is lost."""
        since, arrived = self._since.get(rank, now), self._arrived_at.get(rank, now)
        if now - arrived >= max(self._steady, pause(arrived - since)):
            since = now
        self._since[rank] = since
        self._lost[rank] = _Lost(now + pause(now - since))

    def forget(self, rank: int) -> None:
        """Try a worker no more: it has come back otherwise."""
        self._since.pop(rank, None)
        lost = self._lost.pop(rank, None)
        if lost is not None and lost.attempt is not None:
            lost.attempt.add_done_callback(_let_go)

    def waiting(self, now: float) -> list[int]:
        """Begin the attempts that are due; return the workers that have come back."""
        back = []
        for rank, lost in list(self._lost.items()):
            if lost.attempt is None:
                if now >= lost.due:
                    lost.attempt = self._pool.submit(self._enlist, rank, self._cancelled)
            elif lost.attempt.done() and self._is_back(rank, lost.attempt, now):
                back.append(rank)
        return back

    def arrived(self, now: float) -> dict[int, Mate]:
        """Hand over the workers that have come back."""
        mates: dict[int, Mate] = {}
        for rank in self.waiting(now):
            attempt = self._lost.pop(rank).attempt
            assert attempt is not None
            mates[rank] = attempt.result()
            self._arrived_at[rank] = now
        return mates

    def close(self) -> None:
        """Give up; a worker that has just come back is let go."""
        self._cancelled.set()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for lost in self._lost.values():
            if lost.attempt is not None:
                _let_go(lost.attempt)
        self._lost.clear()

    def _is_back(self, rank: int, attempt: Future[Mate], now: float) -> bool:
        error = attempt.exception()
        if error is None:
            return True
        # Whatever it is: a worker that is not back must not end the session of the others.
        usual = isinstance(error, (ClusterError, OSError))
        foreign = None if isinstance(error, (DecnnError, OSError)) else error
        level = logging.INFO if usual else logging.WARNING
        logger.log(level, "worker %d is not back: %s", rank, error, exc_info=foreign)
        self._lost[rank] = _Lost(now + pause(now - self._since[rank]))
        return False


def _let_go(attempt: Future[Mate]) -> None:
    if not attempt.cancelled() and not attempt.exception():
        attempt.result().worker.disconnect()
