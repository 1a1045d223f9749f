# SPDX-License-Identifier: Apache-2.0
"""Which workers take part in a deployment, and who of them is to own which channel groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from decnn_tvm.errors import ClusterError, MemoryShortage
from decnn_tvm.package import Package
from decnn_tvm.plan import Indices
from decnn_tvm.runtime.mate import Mate
from decnn_tvm.runtime.membership import Member, reassign, replicas, share_bytes, shortage
from decnn_tvm.runtime.pace import with_speeds


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
    """

    def __init__(self, package: Package, assignment: Sequence[Indices], *, fixed: bool) -> None:
        self.assignment = tuple(assignment)
        self.mates: dict[int, Mate] = {}
        self.causes: dict[int, str] = {}
        self.fixed, self.changed = fixed, False
        self.seconds = {r: 1 / len(g) for r, g in enumerate(assignment)} if fixed else {}
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

    def members(self) -> list[Member]:
        """Return the workers as the functions of `membership` see them."""
        members = [self._member(rank, mate) for rank, mate in sorted(self.mates.items())]
        return with_speeds(members, self.seconds)

    def prospects(self, rank: int, mate: Mate) -> Indices:
        """Return what a worker that is not there yet would own."""
        others = [m for m in self.members() if m.rank != rank]
        members = [*others, self._member(rank, mate)]
        after = reassign(members, self._groups, neighbours=self._neighbours)
        return (after or {}).get(rank, ())

    def stored(self, copies: int) -> dict[int, Indices]:
        """Return whose weights each worker stores: its own groups', and copies of others'."""
        held = replicas(self.members(), self._groups, copies, neighbours=self._neighbours)
        return {rank: tuple(sorted({*self.owned(rank), *held[rank]})) for rank in self.mates}

    def decide(self, names: Sequence[str]) -> tuple[Indices, ...]:
        """Return who is to own what.

        Raises
        ------
        ClusterError
            The workers can't hold all groups; says what is missing.
        """
        members = self.members()
        fits = all(not m.groups or len(m.groups) in m.counts for m in members)
        if fits and not self.changed:
            return self.assignment
        after = None
        if not self.fixed:
            after = reassign(members, self._groups, neighbours=self._neighbours)
        if after is None:
            raise self._shortage(members, names)
        length = max(len(self.assignment), max(after) + 1)
        return tuple(after.get(rank, ()) for rank in range(length))

    def _member(self, rank: int, mate: Mate) -> Member:
        counts = [
            k for k in self._libraries(mate) if self._need[k] <= mate.memory and k < mate.refused
        ]
        return Member(
            rank=rank,
            groups=self.owned(rank),
            counts=tuple(counts),
            stored=mate.stored(self._groups),
        )

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
