# SPDX-License-Identifier: Apache-2.0
"""A lock that threads get in turn."""

from __future__ import annotations

import threading

from decnn_tvm.runtime.own_process import OwnProcess


class FairLock:
    """A reentrant lock that a thread which takes it in a loop can't keep from others.

    Python's own locks may go back to the thread that has just released them, any number of times.
    Here the next thread in line holds the door: `_door` is kept until the lock itself is there.

    A process that was forked may have got it locked, by a thread that does not exist there, and
    shares with its parent whatever the lock guards: it does not get in.
    """

    def __init__(self) -> None:
        self._door, self._lock = threading.Lock(), threading.RLock()
        self._owner: int | None = None
        self._depth = 0
        self._process = OwnProcess()

    @property
    def foreign(self) -> bool:
        """Whether this process is a fork of the one that made the lock."""
        return self._process.forked

    def __enter__(self) -> None:
        self._process.check()
        # A thread may enter again from a finaliser, while another one holds the door.
        if self._owner == threading.get_ident():
            self._lock.acquire()
        else:
            with self._door:
                self._lock.acquire()
        self._owner = threading.get_ident()
        self._depth += 1

    @property
    def wanted(self) -> bool:
        """Whether another thread stands in line."""
        return self._door.locked()

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = None
        self._lock.release()
