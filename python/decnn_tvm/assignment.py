# SPDX-License-Identifier: Apache-2.0
"""Which device owns which groups: contiguous, as even as possible, bigger shares first."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from decnn_tvm.errors import PartitionError
from decnn_tvm.plan import Indices, Plan


def even_shares(groups: int, devices: int) -> tuple[int, ...]:
    """Return how many of `groups` each of `devices` owns."""
    small, big = divmod(groups, devices)
    return tuple(small + (device < big) for device in range(devices))


def assign_groups(
    plan: Plan, devices: int, shares: Sequence[int] | None = None
) -> tuple[Indices, ...]:
    """Return the groups of each device.

    Parameters
    ----------
    plan : Plan
        The split network.
    devices : int
        How many devices there are.
    shares : sequence of int, optional
        Groups per device; as even as possible by default. Those of replicas may be a fraction.

    Raises
    ------
    PartitionError
        There are more devices than groups, or the shares do not fit devices and groups.
    """
    if not 1 <= devices <= plan.groups:
        raise PartitionError(_too_many(plan, devices))
    counts = even_shares(plan.groups, devices) if shares is None else tuple(shares)
    if plan.strategy == "replicas" and sum(counts) > 0 and plan.groups % sum(counts) == 0:
        counts = tuple(count * (plan.groups // sum(counts)) for count in counts)
    if len(counts) != devices or sum(counts) != plan.groups or min(counts, default=0) < 1:
        raise PartitionError(
            f"shares {list(counts)} of {plan.model!r}: expected {devices} numbers of at least 1 "
            f"(one for each worker) that add up to its {plan.groups} {plan.unit}. "
            f"The even shares are {list(even_shares(plan.groups, devices))}."
        )
    starts = [sum(counts[:device]) for device in range(devices)]
    pairs = zip(starts, counts, strict=True)
    return tuple(tuple(range(start, start + count)) for start, count in pairs)


def owners_of_sample(plan: Plan, assignment: Sequence[Indices], sample: int) -> Sequence[Indices]:
    """Return who works on one sample: everybody, or of replicas the one whose turn it is.

    What the others own is left empty, so that `decnn_tvm.transfers.transfers`, which knows nothing
    of turns, concerns the one replica alone.
    """
    if plan.strategy != "replicas":
        return assignment
    order = turn_order(assignment)
    owner = order[sample % len(order)]
    return tuple(groups if d == owner else () for d, groups in enumerate(assignment))


def turn_order(assignment: Sequence[Indices]) -> tuple[int, ...]:
    """Return the device of every turn, each device as often as it owns turns, well mixed.

    Which turns a device owns does not matter, since all replicas hold the same. Whoever is owed the
    most takes the next one, as in smooth weighted round robin.
    """
    return _turn_order(tuple(len(groups) for groups in assignment))


@functools.lru_cache(maxsize=64)
def _turn_order(counts: tuple[int, ...]) -> tuple[int, ...]:
    owed, order = [0] * len(counts), []
    for _ in range(sum(counts)):
        owed = [due + count for due, count in zip(owed, counts, strict=True)]
        order.append(max(range(len(counts)), key=lambda device: (owed[device], -device)))
        owed[order[-1]] -= sum(counts)
    return tuple(order)


def _too_many(plan: Plan, devices: int) -> str:
    limit = f"{plan.model!r}: {devices} workers asked for, but it is "
    if plan.decoupled:
        return (
            f"{limit}decoupled into G={plan.groups} channel groups, so at most {plan.groups} "
            "workers. Use fewer workers, or decouple it with more groups."
        )
    return (
        f"{limit}split into G={plan.groups} {plan.unit}, so at most {plan.groups} workers. "
        "Use fewer workers, or compile it for more."
    )
