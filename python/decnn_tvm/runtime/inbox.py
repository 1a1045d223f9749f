# SPDX-License-Identifier: Apache-2.0
"""What has arrived and waits for its one reader.

The reader may say how many messages it needs before it can go on: at the coordinator a result takes
one of every worker, and to wake a thread for a message costs more than to take that message in.
"""

from __future__ import annotations

import threading
from collections import deque

from decnn_tvm.runtime.wire import ERROR, Message, WireError


class Inbox:
    """A queue between the thread that receives and the one that works."""

    def __init__(self) -> None:
        self._waiting: deque[Message | WireError | None] = deque()
        self._change = threading.Condition(threading.Lock())
        self._urgent, self._enough = False, 1

    def put(self, item: Message | WireError | None) -> None:
        """Add what arrived; a failure, or None, ends the reader's wait at once."""
        with self._change:
            self._waiting.append(item)
            self._urgent |= not isinstance(item, Message) or item.header.movement == ERROR
            if self._is_enough():
                self._change.notify()

    def get(self, timeout: float, enough: int = 1) -> Message | WireError | None:
        """Return the oldest item, or None where there is none.

        Parameters
        ----------
        timeout : float
            Seconds to wait, at most; 0 takes what is there.
        enough : int
            How many have to be there before the time is up.
        """
        with self._change:
            if timeout > 0:
                self._enough = enough
                self._change.wait_for(self._is_enough, timeout)
            item = self._waiting.popleft() if self._waiting else None
            self._urgent &= bool(self._waiting)
            return item

    def _is_enough(self) -> bool:
        return self._urgent or len(self._waiting) >= self._enough
