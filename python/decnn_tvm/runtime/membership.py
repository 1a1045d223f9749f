# SPDX-License-Identifier: Apache-2.0
"""Who owns which groups after a change: pure functions over frozen data.

`choose_counts` decides how many groups each member owns: first the slowest member's time per
sample is made as small as it can be, then the load as even, then the groups that change hands as
few. `deal` then lets every member keep what it has, up to its count; row strips, of which a member
must have neighbours, are dealt anew from the first on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from decnn_tvm.plan import Indices, Owned, Plan, nbytes

ROUNDING = 1.0 + 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A device that could own channel groups.

    Attributes
    ----------
    rank : int
        The device.
    groups : tuple of int
        What it owns now.
    counts : tuple of int
        How many groups it can own: a library is there and its memory suffices. It may always own
        none, and is a spare then.
    seconds : float
        Its time per sample for one group, in any unit that is the same for all.
    stored : frozenset of int
        Groups whose weights it has on disk.
    """

    rank: int
    groups: Indices
    counts: tuple[int, ...]
    seconds: float = 1.0
    stored: frozenset[int] = frozenset()


def reassign(
    members: Sequence[Member], groups: int, *, neighbours: bool = False
) -> dict[int, Indices] | None:
    """Return the groups of each member by rank, or None where they can't hold all.

    With `neighbours` the groups of a member follow each other.
    """
    counts = choose_counts(members, groups)
    if counts is None:
        return None
    return deal_neighbours(members, counts) if neighbours else deal(members, groups, counts)


def bottleneck(counts: Sequence[int], members: Sequence[Member]) -> float:
    """Return the time per sample of the slowest member."""
    return max((c * m.seconds for c, m in zip(counts, members, strict=True)), default=0.0)


def choose_counts(members: Sequence[Member], groups: int) -> tuple[int, ...] | None:
    """Return how many of `groups` each member should own, or None where they can't hold all."""
    limit = math.inf
    best = None
    # The first round finds the smallest bottleneck, the second the evenest split that keeps it.
    for _ in range(2):
        best = _cheapest(members, groups, limit, first=math.isinf(limit))
        if best is None:
            return None
        limit = bottleneck(best, members) * ROUNDING
    return best


_Cost = tuple[float, float]


def _cheapest(
    members: Sequence[Member], groups: int, limit: float, *, first: bool
) -> tuple[int, ...] | None:
    """Return the counts of least cost by dynamic programming over the members."""
    # Counts are negative here: of equal offers the one that loads the first members more wins.
    table: dict[int, tuple[_Cost, tuple[int, ...]]] = {0: ((0.0, 0.0), ())}
    for member in members:
        following: dict[int, tuple[_Cost, tuple[int, ...]]] = {}
        for done, (cost, chosen) in table.items():
            for count in {0, *member.counts}:
                load = count * member.seconds
                if done + count > groups or load > limit:
                    continue
                lost = max(0, len(member.groups) - count)
                worse = max(cost[0], load) if first else cost[0] + load * load
                offer = ((worse, cost[1] + lost), (*chosen, -count))
                if done + count not in following or offer < following[done + count]:
                    following[done + count] = offer
        table = following
    return tuple(-count for count in table[groups][1]) if groups in table else None


def deal(members: Sequence[Member], groups: int, counts: Sequence[int]) -> dict[int, Indices]:
    """Return the groups of each member by rank, `counts` each; members keep what they have."""
    owned = {
        m.rank: list(sorted(m.groups)[:count]) for m, count in zip(members, counts, strict=True)
    }
    wanted = {m.rank: count for m, count in zip(members, counts, strict=True)}
    kept = {group for held in owned.values() for group in held}
    free = [group for group in range(groups) if group not in kept]
    for stored_only in (True, False):
        for group in list(free):
            takers = [
                m
                for m in members
                if len(owned[m.rank]) < wanted[m.rank] and (group in m.stored or not stored_only)
            ]
            if takers:
                taker = min(takers, key=lambda m: (len(owned[m.rank]) - wanted[m.rank], m.rank))
                owned[taker.rank].append(group)
                free.remove(group)
    return {rank: tuple(sorted(held)) for rank, held in owned.items()}


def deal_neighbours(members: Sequence[Member], counts: Sequence[int]) -> dict[int, Indices]:
    """Return the groups of each member by rank, `counts` each, in the order of the ranks."""
    owned, start = {}, 0
    for member, count in sorted(zip(members, counts, strict=True), key=lambda pair: pair[0].rank):
        owned[member.rank] = tuple(range(start, start + count))
        start += count
    return owned


def replicas(
    members: Sequence[Member], groups: int, copies: int, *, neighbours: bool = False
) -> dict[int, frozenset[int]]:
    """Return which groups each member should store besides its own.

    Copy n of a group lies with who would take it if its owner and the holders of the copies
    before were lost, so that a takeover finds its weights on disk.
    """
    stored: dict[int, set[int]] = {member.rank: set() for member in members}
    for owner in members:
        for group in owner.groups:
            left = [m for m in members if m.rank != owner.rank]
            for _ in range(copies):
                after = reassign(left, groups, neighbours=neighbours)
                if after is None:
                    break
                heir = next(rank for rank, held in after.items() if group in held)
                stored[heir].add(group)
                left = [m for m in left if m.rank != heir]
    return {rank: frozenset(held) for rank, held in stored.items()}


def share_bytes(plan: Plan, count: int) -> int:
    """Return the bytes that `count` groups take on a device at least: weights and activations.

    Activations are counted for one sample. Packed weights can be larger, by padding, which a
    worker checks when it has packed them. Where groups differ, as stages of a pipeline do, the
    largest count.
    """
    if not count:
        return 0
    of_all, of_group = 0, [0] * plan.groups
    for weight in plan.weights:
        size = 4 * math.prod(weight.local_shape(count))
        if weight.group is None:
            of_all += size
        else:
            of_group[weight.group] += size
    for value in plan.values:
        if isinstance(value.placement, Owned):
            of_group[value.placement.group] += nbytes(value, count)
        else:
            of_all += nbytes(value, count)
    return of_all + sum(sorted(of_group)[-count:])


def shortage(
    members: Sequence[Member],
    groups: int,
    names: Mapping[int, str],
    need: Mapping[int, int],
    memory: Mapping[int, int],
    libraries: Mapping[int, Sequence[int]],
    unit: str = "channel groups",
) -> str:
    """Return the sentence that says why the members can't hold all groups.

    Parameters
    ----------
    members, groups
        Those of `reassign`.
    names : mapping of rank to str
        What messages call them.
    need : mapping of number of groups to bytes
        What a share takes.
    memory : mapping of rank to bytes
        What a member has.
    libraries : mapping of rank to numbers of groups
        What its libraries are for.
    unit : str
        What groups are called.
    """
    parts = []
    for member in members:
        most = max(member.counts, default=0)
        too_much = [k for k in libraries[member.rank] if k > most]
        why = f"{names[member.rank]} holds at most {most}"
        if too_much:
            why += (
                f" ({too_much[0]} take {need[too_much[0]] / 1e6:.1f} MB, and it has "
                f"{memory[member.rank] / 1e6:.1f} MB)"
            )
        else:
            why += f" (libraries for {sorted(libraries[member.rank])})"
        parts.append(why)
    return (
        f"the {groups} {unit} do not fit: {'; '.join(parts) or 'no worker is left'}. "
        "Add a worker or memory, or compile with all_shares."
    )
