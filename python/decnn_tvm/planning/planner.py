# SPDX-License-Identifier: Apache-2.0
"""Rank the ways to run a network on a cluster, and say no where one device is faster.

Each alternative is tried on the fastest k devices, for k = 1, 2, 4, ... and all, with even shares
and, where the devices' speeds differ, uneven ones, and where their memory does not hold that, on
others and with other shares (`decnn_tvm.planning.candidates`); with each wire type, and with
windows that grow until the rate does not. Of each alternative the best that fits the devices'
memory is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from decnn_tvm.errors import PlanningError
from decnn_tvm.network import Network
from decnn_tvm.planning.alternatives import Alternative, alternatives
from decnn_tvm.planning.candidates import best_of, fits
from decnn_tvm.planning.estimates import Estimate
from decnn_tvm.planning.reasons import MARGIN, refusal, why_it_loses
from decnn_tvm.planning.shares import UNEVEN
from decnn_tvm.planning.speeds import Speeds
from decnn_tvm.planning.splits import Splitter

Goal: TypeAlias = Literal["latency", "throughput"]

WIRES = ("float32", "float16", "int8")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranked:
    """One alternative in the ranking.

    Attributes
    ----------
    estimate : Estimate, optional
        The best of it; None where it can't be had.
    name : str
        The alternative's.
    reason : str
        Why it loses, in one line; empty for the winner.
    fits : bool
        Whether it can be used: it exists and the devices' memory holds it.
    """

    name: str
    estimate: Estimate | None
    reason: str
    fits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """All alternatives, the winner first, then by how good they are, those that can't be used last.

    Attributes
    ----------
    goal : {"latency", "throughput"}
        What they are ranked by.
    entries : tuple of Ranked
        One for each alternative.
    single : Estimate
        The fastest device that holds the network, alone; where none does, the one that comes
        closest to it.
    single_fits : bool
        Whether it does.
    speeds : Speeds
        The cluster.
    refused : str
        Why several devices are not worth it, with the figures; empty where they are.
    """

    goal: Goal
    entries: tuple[Ranked, ...]
    single: Estimate
    single_fits: bool
    speeds: Speeds
    refused: str

    @property
    def best(self) -> Estimate:
        """The winner.

        Raises
        ------
        PlanningError
            One device is faster, or nothing fits the devices' memory; says so with the figures.
        """
        if self.refused:
            raise PlanningError(self.refused)
        found = self.entries[0].estimate
        assert found is not None
        return found


def score(found: Estimate, goal: Goal) -> float:
    """Return what is to be large."""
    return 1 / found.latency_seconds if goal == "latency" else found.samples_per_second


def rank(
    network: Network,
    speeds: Speeds,
    *,
    goal: Goal = "throughput",
    wires: Sequence[str] = WIRES,
    exact: bool = False,
    winograd: bool | None = None,
    counts: Sequence[int] | None = None,
    progress: Callable[[str, float, float], None] | None = None,
) -> Ranking:
    """Rank the ways to run a network on a cluster.

    Parameters
    ----------
    network : Network
        Dense or decoupled.
    speeds : Speeds
        The cluster.
    goal : {"latency", "throughput"}
        The time of one sample alone, or samples per second.
    wires : sequence of str
        Wire types that may be used.
    exact : bool
        Leave out what needs training.
    winograd : bool, optional
        As for `decnn_tvm.compile`.
    counts : sequence of int, optional
        Numbers of devices that are tried, one alone always and fewer where no more can hold their
        part; 1, 2, 4, ... and all by default.
    progress : callable, optional
        Told of every alternative.
    """
    tried = _powers_of_two(len(speeds.clocks)) if counts is None else sorted({1, *counts})
    uneven = max(speeds.clocks) > UNEVEN * min(speeds.clocks)
    ways = alternatives(network, len(speeds.clocks), exact=exact, uneven=uneven)
    splitter = Splitter(speeds.targets, winograd)
    found: list[tuple[Alternative, Estimate | None, str]] = []
    for step, way in enumerate(ways):
        if progress is not None:
            progress(way.name, step, len(ways))
        best = best_of(way, splitter, speeds, wires, tried, lambda one: score(one, goal))
        found.append((way, *best))
    return _ranking(found, speeds, goal)


def _powers_of_two(most: int) -> list[int]:
    """Return 1, 2, 4, ... below a number, and that."""
    return [*(1 << power for power in range((most - 1).bit_length())), most]


def _ranking(
    found: Sequence[tuple[Alternative, Estimate | None, str]], speeds: Speeds, goal: Goal
) -> Ranking:
    single = next(one for way, one, _ in found if way.strategy == "single" and one is not None)
    usable = [one for _, one, _ in found if one is not None and fits(one, speeds)]
    usable.sort(key=lambda one: -score(one, goal))
    refused = _refused(usable, single, speeds, goal)
    # One device is what is left then, also where others are a little better.
    winner = None if not usable else single if refused else usable[0]
    entries = [_entry(way, one, reason, winner, speeds, goal) for way, one, reason in found]
    entries.sort(
        key=lambda entry: (
            winner is None or entry.estimate is not winner,
            not entry.fits,
            -score(entry.estimate, goal) if entry.estimate is not None else 0.0,
        )
    )
    return Ranking(
        goal=goal,
        entries=tuple(entries),
        single=single,
        single_fits=fits(single, speeds),
        speeds=speeds,
        refused=refused,
    )


def _entry(
    way: Alternative,
    one: Estimate | None,
    reason: str,
    winner: Estimate | None,
    speeds: Speeds,
    goal: Goal,
) -> Ranked:
    if one is None:
        return Ranked(name=way.name, estimate=None, reason=reason, fits=False)
    if one is winner:
        return Ranked(name=way.name, estimate=one, reason="", fits=True)
    suits = fits(one, speeds)
    return Ranked(
        name=way.name,
        estimate=one,
        reason=why_it_loses(one, winner if suits else None, speeds, goal),
        fits=suits,
    )


def _refused(usable: Sequence[Estimate], single: Estimate, speeds: Speeds, goal: Goal) -> str:
    """Return why several devices are not worth it; empty where they are."""
    if not usable:
        return refusal(None, single, speeds, goal, fits=False)
    # A sample alone takes as long on a replica as on the only device.
    several = [
        one
        for one in usable
        if len(one.ranks) > 1 and (goal, one.alternative.strategy) != ("latency", "replicas")
    ]
    if not fits(single, speeds) or len(speeds.clocks) == 1:
        return ""
    if several and score(several[0], goal) > MARGIN * score(single, goal):
        return ""
    return refusal(several[0] if several else None, single, speeds, goal, fits=True)
