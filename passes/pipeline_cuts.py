# SPDX-License-Identifier: Apache-2.0
"""Where to cut a chain of layers into stages of about equal load: a pure function of numbers."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

MACS_PER_BYTE = 80
"""What a byte that crosses a cut counts: a Raspberry Pi 4 computes about 10 GMAC/s on convolutions,
and its Gigabit link carries 125 MB/s meanwhile."""


def choose_cuts(loads: Sequence[int], crossing: Mapping[int, int], stages: int) -> tuple[int, ...]:
    """Return where `stages` stages begin and end, first and last place included.

    The load of the busiest stage is made as small as it can be, then the sum of what crosses. A
    stage's load is the arithmetic of its layers and what it receives, at `MACS_PER_BYTE`.

    Parameters
    ----------
    loads : sequence of int
        Multiply-accumulates of each layer, in order.
    crossing : mapping of int to int
        Bytes that cross a cut before a layer, for every layer that a stage may begin with, but the
        first; at least ``stages - 1`` of them.
    stages : int
        How many stages.
    """
    total = [0, *itertools.accumulate(loads)]
    ends = [*sorted(crossing), len(loads)]
    received = {0: 0, **{place: MACS_PER_BYTE * size for place, size in crossing.items()}}
    # Of the stages so far, by where they end: load of the busiest, sum of what crossed, the cuts.
    best: dict[int, tuple[int, int, tuple[int, ...]]] = {0: (0, 0, (0,))}
    for _ in range(stages):
        following: dict[int, tuple[int, int, tuple[int, ...]]] = {}
        for end in ends:
            offers = [
                (
                    max(busiest, total[end] - total[start] + received[start]),
                    crossed + received[start],
                    (*cuts, end),
                )
                for start, (busiest, crossed, cuts) in best.items()
                if start < end
            ]
            if offers:
                following[end] = min(offers)
        best = following
    return best[len(loads)][2]
