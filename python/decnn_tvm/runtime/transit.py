# SPDX-License-Identifier: Apache-2.0
"""For how long a large message may keep its sender from being heard.

A peer is heard when a whole message is there, and on a slow link that takes: so long as the largest
messages of a moment take at `Policy.slowest_link`, until some have shown how long they take indeed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

SEEN = 4
"""Large messages of a peer in one epoch that show how long such a message is under way."""
PATIENCE = 4
"""Times the longest that was seen of a peer that it may take: between messages, and for one."""
LONGEST_TRANSIT = 10.0
"""Seconds that a message may be under way, at most, before its sender counts as silent."""


@dataclass(slots=True)
class Transit:
    """What one peer's large messages take in one epoch.

    Attributes
    ----------
    largest : int
        Bytes of its largest message; half as many are large.
    reckoned : float
        Seconds that it may be under way by the policy.
    longest : float
        Seconds that one was under way, at most, of those that were seen.
    seen : int
        How many these were.
    """

    largest: int
    reckoned: float
    longest: float = 0.0
    seen: int = 0

    @property
    def allowed(self) -> float:
        """Seconds that its sender may be silent besides."""
        if self.seen < SEEN:
            return self.reckoned
        return min(self.reckoned, PATIENCE * self.longest)

    def see(self, nbytes: int, seconds: float) -> None:
        """Note a message that has kept its sender from being heard for so long."""
        if 2 * nbytes >= self.largest:
            # Another thread asks what is allowed: the count goes last.
            self.longest = max(seconds, self.longest)
            self.seen += 1


def transits(peers: int, sizes: Mapping[int, int], slowest_link: float) -> dict[int, Transit]:
    """Return what the messages of each peer may take, to begin with.

    What all send to us shares our link, and what one sends to all of us shares its own.

    Parameters
    ----------
    peers : int
        How many there are.
    sizes : mapping of int to int
        Bytes of the largest message from each.
    slowest_link : float
        Bits per second.
    """
    rate, together = slowest_link / 8, sum(sizes.values())
    return {
        rank: Transit(size, min(LONGEST_TRANSIT, max(together, peers * size) / rate))
        for rank, size in sizes.items()
    }
