# SPDX-License-Identifier: Apache-2.0
"""Events in the order of their moments."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Events:
    """What is still to happen; `now` is the moment of what happens.

    Attributes
    ----------
    now : float
        Seconds.
    count : int
        Events so far, those to come included.
    """

    def __init__(self) -> None:
        self.now, self.count = 0.0, 0
        self._queue: list[tuple[float, bool, int, Callable[..., None], tuple[object, ...]]] = []

    def at(
        self, moment: float, action: Callable[..., None], *arguments: object, last: bool = False
    ) -> None:
        """Have `action` happen at a moment; `last` after all else that is known of it then."""
        # The count keeps events of one moment in the order in which they were caused.
        self.count += 1
        heapq.heappush(self._queue, (moment, last, self.count, action, arguments))

    def run(self) -> None:
        """Let everything happen."""
        while self._queue:
            self.now, _, _, action, arguments = heapq.heappop(self._queue)
            action(*arguments)
