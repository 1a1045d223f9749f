# SPDX-License-Identifier: Apache-2.0
"""Which workers take part in a deployment, and who of them is to own which channel groups."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from decnn_tvm.errors import ClusterError, MemoryShortage
from decnn_tvm.package import Package
from decnn_tvm.plan import Indices
from decnn_tvm.runtime.mate import Mate
from decnn_tvm.runtime.membership import Member, reassign, replicas, share_bytes, shortage
from decnn_tvm.runtime.pace import with_speeds

REMEMBERED = 300.0
"""Seconds that a share which was too much for a worker is remembered, also when it has come back:
it may have more memory then, or less."""

SETTLED = 8
"""Results of an epoch after which its shares have proved to fit: the memory of a worker has grown
as far as it will."""
SOON = 60.0
"""Seconds of an epoch after which the end of a worker is no sign of too large a share."""


@dataclass(frozen=True, slots=True)
class _Limit:
    """The least number of groups that was too much, and until when that counts."""

    groups: int
    until: float


class Roster:
    """The workers of a deployment by rank; it does no I/O.

    Parameters
    ----------
    package : Package
        What they run.
    assignment : sequence of tuple of int
        Channel groups by rank, to begin with.
    fixed : bool
        Whether these shares were asked for or planned: they are refused rather than changed before
        the first epoch, and say how fast the devices are.
    clock : callable
        Seconds.

    Attributes
    ----------
    assignment : tuple of tuple of int
        Channel groups by rank, in the present epoch.
    mates : dict of int to Mate
        Who takes part.
    causes : dict of int to str
        Why others don't any more.
    seconds : dict of int to float
        Measured seconds per sample and group, or what the shares say.
    changed : bool
        Whether the groups have to be dealt anew.
    results : int
        Samples that have their result in the present epoch.
    """

    def __init__(
        self,
        package: Package,
        assignment: Sequence[Indices],
        *,
        fixed: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.assignment = tuple(assignment)
        self.mates: dict[int, Mate] = {}
        self.causes: dict[int, str] = {}
        self.fixed, self.changed = fixed, False
        self.seconds = {r: 1 / len(g) for r, g in enumerate(assignment) if g} if fixed else {}
        self.results, self._begun, self._clock = 0, clock(), clock
        self._refused: dict[int, _Limit] = {}
        self._suspected: dict[int, _Limit] = {}
        self._borne: dict[int, int] = {}
        self._stalled: set[int] = set()
        self._package, self._groups = package, package.plan.groups
        self._neighbours = package.plan.strategy == "rows"
        self._need = {k: share_bytes(package.plan, k) for k in range(self._groups + 1)}

    def owned(self, rank: int) -> Indices:
        """Return the channel groups of a rank."""
        return self.assignment[rank] if rank < len(self.assignment) else ()

    def take_in(self, rank: int, mate: Mate) -> None:
        """Let a worker take part from the next epoch on."""
        self.mates[rank] = mate
        self.causes.pop(rank, None)
        self.changed = True

    def strike(self, rank: int, why: str) -> Mate:
        """Let a worker take part no more."""
        self.causes[rank] = why
        self.changed = True
        return self.mates.pop(rank)

    def begin(self, assignment: Sequence[Indices]) -> None:
        """Note that an epoch has begun."""
        if self._proved():
            for rank, groups in enumerate(self.assignment):
                self._borne[rank] = max(len(groups), self._borne.get(rank, 0))
        self._stalled.difference_update(self.mates)
        self.assignment = tuple(assignment)
        self.changed = self.fixed = False
        self.results, self._begun = 0, self._clock()

    def untried(self, rank: int) -> int:
        """Return how many groups a worker has had for so short that they may be too many."""
        groups = len(self.owned(rank))
        return 0 if self._proved() or groups <= self._borne.get(rank, 0) else groups

    def refuse(self, rank: int, groups: int) -> None:
        """Note that a worker, and who comes back in its place, has no memory for so many groups."""
        self._limit(self._refused, rank, groups)

    def suspect(self, rank: int, groups: int) -> None:
        """Note that so many groups may be what ended a worker: less, where others can hold them."""
        self._limit(self._suspected, rank, groups)

    def stalled(self, rank: int, groups: int) -> None:
        """Note that a worker fell silent before it began with so many groups.

        Once says nothing: a link was cut, or it was frozen. Twice on end they may be too many.
        """
        if groups and rank in self._stalled:
            self.suspect(rank, groups)
        self._stalled.add(rank)

    def members(self, *, wary: bool = True) -> list[Member]:
        """Return the workers as the functions of `membership` see them.

        With `wary` none is to own what it is suspected not to bear.
        """
        mates = sorted(self.mates.items())
        return with_speeds([self._member(rank, mate, wary) for rank, mate in mates], self.seconds)

    def prospects(self, rank: int, mate: Mate) -> Indices:
        """Return what a worker that is not there yet would own."""
        return (self._dealt((rank, mate)) or {}).get(rank, ())

    def stored(self, copies: int) -> dict[int, Indices]:
        """Return whose weights each worker stores: its own groups', and copies of others'."""
        held = replicas(self.members(), self._groups, copies, neighbours=self._neighbours)
        return {rank: tuple(sorted({*self.owned(rank), *held[rank]})) for rank in self.mates}

    def keep(self) -> bool:
        """Have the present owners keep their groups, if all are there; return whether they are."""
        held = {group for rank in self.mates for group in self.owned(rank)}
        if whole := len(held) == self._groups:
            self.changed = False
        return whole

    def decide(self, names: Sequence[str]) -> tuple[Indices, ...]:
        """Return who is to own what, one entry for each of `names`.

        Raises
        ------
        ClusterError
            The workers can't hold all groups; says what is missing.
        """
        members = self.members()
        fits = all(not m.groups or len(m.groups) in m.counts for m in members)
        after: Mapping[int, Indices] | None = None
        if fits and not self.changed:
            after = dict(enumerate(self.assignment))
        elif not self.fixed:
            after = self._dealt()
        if after is None:
            raise self._shortage(self.members(wary=False), names)
        return tuple(after.get(rank, ()) for rank in range(len(names)))

    def _proved(self) -> bool:
        """Tell whether the shares of this epoch have proved to fit."""
        return self.results >= SETTLED or self._clock() - self._begun > SOON

    def _dealt(self, newcomer: tuple[int, Mate] | None = None) -> dict[int, Indices] | None:
        """Return the groups by rank, or None where the workers can't hold them."""
        for wary in (True, False):
            members = self.members(wary=wary)
            if newcomer is not None:
                members = [m for m in members if m.rank != newcomer[0]]
                members.append(self._member(*newcomer, wary))
            after = reassign(members, self._groups, neighbours=self._neighbours)
            if after is not None:
                return after
        return None

    def _member(self, rank: int, mate: Mate, wary: bool) -> Member:
        too_many = [mate.refused, self._too_many(self._refused, rank)]
        too_many += [self._too_many(self._suspected, rank)] if wary else []
        counts = [
            k for k in self._libraries(mate) if self._need[k] <= mate.memory and k < min(too_many)
        ]
        return Member(
            rank=rank,
            groups=self.owned(rank),
            counts=tuple(counts),
            stored=mate.stored(self._groups),
        )

    def _limit(self, limits: dict[int, _Limit], rank: int, groups: int) -> None:
        least = min(groups, self._too_many(limits, rank))
        limits[rank] = _Limit(least, self._clock() + REMEMBERED)
        self.changed = True

    def _too_many(self, limits: Mapping[int, _Limit], rank: int) -> int:
        limit = limits.get(rank)
        return self._groups + 1 if limit is None or self._clock() > limit.until else limit.groups

    def _libraries(self, mate: Mate) -> list[int]:
        return sorted(self._package.manifest.targets[mate.target].libraries)

    def _shortage(self, members: Sequence[Member], names: Sequence[str]) -> ClusterError:
        libraries = {rank: self._libraries(mate) for rank, mate in self.mates.items()}
        memory = {rank: mate.memory for rank, mate in self.mates.items()}
        known: Mapping[int, str] = dict(enumerate(names))
        text = shortage(
            members, self._groups, known, self._need, memory, libraries, self._package.plan.unit
        )
        causes = [f"{names[rank]} {why}" for rank, why in self.causes.items()]
        short = any(k not in m.counts for m in members for k in libraries[m.rank])
        return (MemoryShortage if short else ClusterError)("\n".join([text, *causes]))
