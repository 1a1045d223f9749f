# SPDX-License-Identifier: Apache-2.0
"""Which device owns which groups: contiguous, as even as possible, bigger shares first."""

from __future__ import annotations

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
        Groups per device; as even as possible by default.

    Raises
    ------
    PartitionError
        There are more devices than groups, or the shares do not fit devices and groups.
    """
    if not 1 <= devices <= plan.groups:
        raise PartitionError(_too_many(plan, devices))
    counts = even_shares(plan.groups, devices) if shares is None else tuple(shares)
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

    What the others own is left empty, so that `transfers` and the steps of a rank, which know
    nothing of turns, concern the one replica alone.
    """
    if plan.strategy != "replicas":
        return assignment
    turn = sample % plan.groups
    return tuple(groups if turn in groups else () for groups in assignment)


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
