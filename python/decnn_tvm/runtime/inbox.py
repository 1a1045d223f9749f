# SPDX-License-Identifier: Apache-2.0
"""What has arrived and waits for its one reader.

The reader may say how many messages it needs before it can go on: at the coordinator a result takes
one of every worker, and to wake a thread for a message costs more than to take that message in.
"""

from __future__ import annotations

import queue
import sys
import time
from collections import deque

from decnn_tvm.runtime.wire import ERROR, Message, WireError

NOBODY = sys.maxsize
"""How many messages wake a reader that does not wait."""


class Inbox:
    """A queue that any thread may fill."""

    def __init__(self) -> None:
        self._waiting: deque[Message | WireError | None] = deque()
        self._calls: deque[None] = deque()  # one for every item that must be taken at once
        self._enough = NOBODY
        # `threading.Condition` is Python and takes 10 % of the rate of small networks; this is C.
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()

    def put(self, item: Message | WireError | None) -> None:
        """Add what arrived; a failure, or None, ends the reader's wait at once."""
        if _is_urgent(item):
            self._calls.append(None)  # before the item, which a reader takes with its call
        self._waiting.append(item)
        if self._holds(self._enough):
            self._bell.put(None)

    def get(self, timeout: float, enough: int = 1) -> Message | WireError | None:
        """Return the oldest item, or None where there is none (rarely, just before an urgent one).

        Parameters
        ----------
        timeout : float
            Seconds to wait, at most; 0 takes what is there.
        enough : int
            How many have to be there before the time is up.
        """
        if timeout > 0 and not self._holds(enough):
            self._wait(time.monotonic() + timeout, enough)
        if not self._waiting:
            return None
        item = self._waiting.popleft()
        if _is_urgent(item):
            self._calls.popleft()
        return item

    def _wait(self, deadline: float, enough: int) -> None:
        self._enough = enough
        # Somebody may have rung for an earlier wait, or come before we said what is enough.
        while not self._holds(enough) and (left := deadline - time.monotonic()) > 0:
            try:
                self._bell.get(timeout=left)
            except queue.Empty:
                break
        self._enough = NOBODY

    def _holds(self, enough: int) -> bool:
        return len(self._waiting) >= enough or bool(self._calls)


def _is_urgent(item: Message | WireError | None) -> bool:
    return not isinstance(item, Message) or item.header.movement == ERROR
