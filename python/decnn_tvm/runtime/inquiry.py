# SPDX-License-Identifier: Apache-2.0
"""Asking a worker about itself while a session is open: for its counters, and for its clock."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

from decnn_tvm.errors import ClusterError
from decnn_tvm.runtime.calls import LOOK
from decnn_tvm.runtime.remote_worker import RemoteWorker

logger = logging.getLogger(__name__)

T = TypeVar("T")

LIMIT = 10.0
"""Seconds that a worker has to answer, where it still beats."""
TRIES = 5
"""Questions for a clock, of which the quickest answer counts."""


def ask(
    worker: RemoteWorker, question: Callable[[RemoteWorker], T], lost: Callable[[], bool]
) -> T | None:
    """Return a worker's answer, or None from one that does not answer, which is hung up on.

    Parameters
    ----------
    worker : RemoteWorker
        Who is asked.
    question : callable
        What to ask; runs beside.
    lost : callable
        Tells whether it has died or fallen silent; looked at again and again.
    """
    deadline = time.monotonic() + LIMIT
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(question, worker)
        try:
            while wait([call], LOOK).not_done:
                if lost() or time.monotonic() > deadline:
                    worker.disconnect()
            return call.result()
        except ClusterError as error:
            logger.warning("left out: %s", error)
            return None
        except BaseException:
            worker.disconnect()  # an interrupt must not wait for the answer
            raise


def clock_offset(read: Callable[[], float], clock: Callable[[], float] = time.monotonic) -> float:
    """Return the seconds to add to another process's clock to have this one's.

    The other clock is read between question and answer, so that half of the time between them
    bounds the error. Where no offset at all is within that bound, both clocks are taken for one, as
    the monotonic clocks of one machine's processes are.

    Parameters
    ----------
    read : callable
        Asks for the other clock, in seconds.
    clock : callable
        This one.
    """
    quickest, offset = float("inf"), 0.0
    for _ in range(TRIES):
        before = clock()
        there = read()
        after = clock()
        if after - before < quickest:
            quickest, offset = after - before, (before + after) / 2 - there
    return 0.0 if abs(offset) <= quickest / 2 else offset
