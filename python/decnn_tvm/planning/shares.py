# SPDX-License-Identifier: Apache-2.0
"""How many groups each of several devices gets, so that all take about equally long."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

UNEVEN = 1.1
"""Devices whose speeds differ by less count as equal."""
MAX_TOTAL = 16
"""Groups that a network is split into at most, or two for each device: thinner ones fill no
vectors."""
CAPPED_TOTALS = 16
"""Sums of shares that are tried where memory limits them."""


def proportional_shares(total: int, speeds: Sequence[float]) -> tuple[int, ...]:
    """Return shares of at least 1 that add up to `total` and end soonest, one group at a time."""
    shares = [1] * len(speeds)
    for place in itertools.islice(_next_groups(speeds), max(0, total - len(speeds))):
        shares[place] += 1
    return tuple(shares)


def capped_shares(
    total: int, speeds: Sequence[float], caps: Sequence[float]
) -> tuple[int, ...] | None:
    """Return `proportional_shares` of which none is more than its part of the total.

    Parameters
    ----------
    total : int
        What they add up to.
    speeds : sequence of float
        Of each device.
    caps : sequence of float
        What part of all groups each device may have.

    Returns
    -------
    tuple of int, or None
        None where not every device may have a group, or all together not `total`.
    """
    limits = [math.floor(cap * total + 1e-9) for cap in caps]
    if min(limits) < 1 or sum(limits) < total:
        return None
    shares = [1] * len(speeds)
    for place in itertools.islice(_next_groups(speeds, limits), max(0, total - len(speeds))):
        shares[place] += 1
    return tuple(shares)


def share_choices(
    speeds: Sequence[float],
    *,
    groups: int | None = None,
    caps: Sequence[float] | None = None,
) -> list[tuple[int, ...]]:
    """Return the shares that are worth a look.

    Parameters
    ----------
    speeds : sequence of float
        Of each device.
    groups : int, optional
        What they must add up to; any number by default.
    caps : sequence of float, optional
        What part of all groups each device may have, as its memory allows; only shares within
        these are returned then.
    """
    count = len(speeds)
    most = max(MAX_TOTAL, 2 * count)
    if caps is not None:
        step = -(-(most - count + 1) // CAPPED_TOTALS)
        totals = range(most, count - 1, -step) if groups is None else (groups,)
        return _within(speeds, caps, totals)
    uneven = max(speeds) > UNEVEN * min(speeds)
    if groups is not None:
        even = proportional_shares(groups, [1.0] * count)
        return [even, *([proportional_shares(groups, speeds)] if uneven else [])]
    totals_worth_it = _best_totals(speeds, most) if uneven else []
    choices = [(1,) * count, *(proportional_shares(total, speeds) for total in totals_worth_it)]
    return list(dict.fromkeys(choices))


def _next_groups(speeds: Sequence[float], limits: Sequence[int] | None = None) -> Iterator[int]:
    """Yield who gets the next group, where all have one: who has done with it soonest."""
    shares = [1] * len(speeds)
    queue = [
        (2 / speed, place)
        for place, speed in enumerate(speeds)
        if limits is None or limits[place] > 1
    ]
    heapq.heapify(queue)
    while queue:
        place = queue[0][1]
        shares[place] += 1
        yield place
        if limits is not None and shares[place] >= limits[place]:
            heapq.heappop(queue)
        else:
            heapq.heapreplace(queue, ((shares[place] + 1) / speeds[place], place))


def _best_totals(speeds: Sequence[float], most: int) -> list[int]:
    """Return the total, up to `most`, that ends soonest, and the best where groups cost."""
    shares, last = [1] * len(speeds), 1 / min(speeds)
    soonest: tuple[float, int] | None = None
    cheapest: tuple[float, int] | None = None
    totals = range(len(speeds) + 1, most + 1)
    for total, place in zip(totals, _next_groups(speeds), strict=False):
        shares[place] += 1
        last = max(last, shares[place] / speeds[place])
        span = last / total
        soonest = min(soonest or (span, total), (span, total))
        cost = (_with_groups(span, total), total)
        cheapest = min(cheapest or cost, cost)
    return [found[1] for found in (soonest, cheapest) if found is not None]


def _within(
    speeds: Sequence[float], caps: Sequence[float], totals: Iterable[int]
) -> list[tuple[int, ...]]:
    """Return the shares within caps that end soonest, and the best where groups cost."""
    made = [s for total in totals if (s := capped_shares(total, speeds, caps)) is not None]
    if not made:
        return []
    soonest = min(made, key=lambda shares: (_makespan(shares, speeds), sum(shares)))
    cheapest = min(made, key=lambda shares: _with_groups(_makespan(shares, speeds), sum(shares)))
    return list(dict.fromkeys([soonest, cheapest]))


def _makespan(shares: Sequence[int], speeds: Sequence[float]) -> float:
    """Return the time of the last device, where all work takes 1 on a device of speed 1."""
    return max(s / v for s, v in zip(shares, speeds, strict=True)) / sum(shares)


def _with_groups(span: float, total: int) -> float:
    """Weigh a makespan against the number of groups: 2 % for each."""
    return span * (1 + 0.02 * total)
