# SPDX-License-Identifier: Apache-2.0
"""How many groups each of several devices gets, so that all take about equally long."""

from __future__ import annotations

from collections.abc import Sequence

UNEVEN = 1.1
"""Devices whose speeds differ by less count as equal."""
MAX_TOTAL = 16
"""Groups that a network is split into at most: thinner ones fill no vectors."""


def proportional_shares(total: int, speeds: Sequence[float]) -> tuple[int, ...]:
    """Return shares of at least 1 that add up to `total` and end soonest, one group at a time."""
    shares = [1] * len(speeds)
    for _ in range(total - len(speeds)):
        soonest = min(range(len(speeds)), key=lambda i: ((shares[i] + 1) / speeds[i], i))
        shares[soonest] += 1
    return tuple(shares)


def share_choices(
    speeds: Sequence[float], *, groups: int | None = None, most: int = MAX_TOTAL
) -> list[tuple[int, ...]]:
    """Return the shares that are worth a look.

    Parameters
    ----------
    speeds : sequence of float
        Of each device.
    groups : int, optional
        What they must add up to; any number by default.
    most : int
        What they may add up to at most, if any number will do.
    """
    count = len(speeds)
    uneven = max(speeds) > UNEVEN * min(speeds)
    if groups is not None:
        even = proportional_shares(groups, [1.0] * count)
        return [even, *([proportional_shares(groups, speeds)] if uneven else [])]
    choices = [(1,) * count]
    if uneven:
        totals = range(count + 1, max(most, count + 1) + 1)
        made = [proportional_shares(total, speeds) for total in totals]
        best = sorted(made, key=lambda shares: (_makespan(shares, speeds), sum(shares)))
        choices += [*best[:1], min(made, key=lambda shares: _cost(shares, speeds))]
    return list(dict.fromkeys(choices))


def _makespan(shares: Sequence[int], speeds: Sequence[float]) -> float:
    """Return the time of the last device, where all work takes 1 on a device of speed 1."""
    return max(s / v for s, v in zip(shares, speeds, strict=True)) / sum(shares)


def _cost(shares: Sequence[int], speeds: Sequence[float]) -> float:
    """Weigh the makespan against the number of groups: 2 % for each."""
    return _makespan(shares, speeds) * (1 + 0.02 * sum(shares))
