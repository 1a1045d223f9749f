# SPDX-License-Identifier: Apache-2.0
"""Which devices and shares of an alternative are tried: few, however large the cluster is.

For each number of devices the fastest are tried, with the shares that follow their speeds. Where
one of them can't hold its part, so are shares within what each can hold, and the fastest devices
that do have room for a part; and where that does not help either, those with the most room. What a
device would hold is told from the split alone, so that nothing is simulated that can't be run, nor
what takes too many messages (`decnn_tvm.planning.simulated_work`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from decnn_tvm.assignment import assign_groups
from decnn_tvm.errors import PartitionError
from decnn_tvm.planning.alternatives import Alternative
from decnn_tvm.planning.estimates import Estimate, estimate, exchanges_of
from decnn_tvm.planning.memory import IDLE_BYTES, least_memory
from decnn_tvm.planning.shares import MAX_TOTAL
from decnn_tvm.planning.simulated_work import WINDOWS, messages_of, samples_for, too_many
from decnn_tvm.planning.speeds import Speeds
from decnn_tvm.planning.splits import Split, Splitter

logger = logging.getLogger(__name__)

ENOUGH = 1.02
"""A larger window must give so many times the rate."""
SETS = 3
"""Sets of devices of one number that are tried, those with the most room not counted."""
TIGHTER = (1.0, 0.8, 0.6)
"""Parts of the devices' memory that shares are made for, until some fit: channels are padded, and
memory does not quite grow with a share."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A split for some devices, and the bytes that each would take above an idle worker."""

    ranks: tuple[int, ...]
    shares: tuple[int, ...]
    split: Split
    needs: tuple[int, ...]


def room_of(speeds: Speeds, rank: int) -> float:
    """Return the bytes that a session may take on a device."""
    limit = speeds.machines.devices[rank].memory_bytes
    return math.inf if limit is None else limit - IDLE_BYTES


def fits(found: Estimate, speeds: Speeds) -> bool:
    """Tell whether the devices' memory holds it, the worker processes themselves included."""
    return all(
        memory.total <= room_of(speeds, rank)
        for memory, rank in zip(found.memory, found.ranks, strict=True)
    )


def best_of(
    way: Alternative,
    splitter: Splitter,
    speeds: Speeds,
    wires: Sequence[str],
    counts: Sequence[int],
    score: Callable[[Estimate], float],
) -> tuple[Estimate | None, str]:
    """Return the best of an alternative, one that fits if any does, or why there is none.

    Parameters
    ----------
    way : Alternative
        The way to run the network.
    splitter : Splitter
        Has the splits that were made before.
    speeds : Speeds
        The cluster.
    wires : sequence of str
        Wire types that may be used.
    counts : sequence of int
        Numbers of devices.
    score : callable
        What is to be large.
    """
    search = _Search(way, splitter, speeds, wires)
    for count in counts:
        search.try_count(count)
    return search.best(score)


class _Search:
    def __init__(
        self, way: Alternative, splitter: Splitter, speeds: Speeds, wires: Sequence[str]
    ) -> None:
        self._way, self._splitter, self._speeds, self._wires = way, splitter, speeds, wires
        self._made: list[Estimate] = []
        self._unfit: list[_Attempt] = []
        self._seen: set[tuple[int, ...]] = {()}
        self._reason = way.reason or "it is for none of the numbers of devices that were tried"
        self._last: Split | None = None

    def try_count(self, count: int) -> None:
        """Try so many devices, or fewer where no more have room for their part."""
        need, before = 0, len(self._made)
        for _ in range(SETS):
            ranks = self._fastest(count, need)
            if ranks in self._seen:
                break
            need = self._try_devices(ranks)
            if not need:
                return
        if not any(fits(one, self._speeds) for one in self._made[before:]):
            ranks = self._fastest(count, 0, by_room=True)
            if ranks not in self._seen:
                self._try_devices(ranks)

    def best(self, score: Callable[[Estimate], float]) -> tuple[Estimate | None, str]:
        """Return the best, of what does not fit the one that comes closest, or why there is none.

        What was left out counts for nothing if something was found.
        """
        fitting = [one for one in self._made if fits(one, self._speeds)]
        if not fitting and self._unfit:
            closest = min(self._unfit, key=self._excess)
            return next(self._variants(closest)), ""
        return max(fitting or self._made, key=score, default=None), self._reason

    def _fastest(self, count: int, need: float, *, by_room: bool = False) -> tuple[int, ...]:
        """Return the fastest devices with room for `need`, or those with the most room."""
        clocks = self._speeds.clocks

        def order(rank: int) -> tuple[float, ...]:
            room = room_of(self._speeds, rank) if by_room else 0.0
            return (-room, -clocks[rank], rank)

        able = [rank for rank in range(len(clocks)) if room_of(self._speeds, rank) >= need]
        return tuple(sorted(sorted(able, key=order)[:count]))

    def _try_devices(self, ranks: tuple[int, ...]) -> int:
        """Try some devices; return what one of them must have room for that lacks it, or 0."""
        self._seen.add(ranks)
        clocks = [self._speeds.clocks[rank] for rank in ranks]
        tried = [self._try(ranks, shares) for shares in self._way.shares(clocks, None)]
        short = next((attempt for attempt in tried if attempt is not None), None)
        if short is None:
            return 0
        self._try_within(ranks, clocks, self._caps(short))
        return max(short.needs)

    def _try_within(
        self, ranks: tuple[int, ...], clocks: Sequence[float], caps: Sequence[float]
    ) -> None:
        """Try shares of which no device gets more than its part, until some fit."""
        known = {*self._way.shares(clocks, None)}
        for part in TIGHTER:
            tight = [cap if cap == 1 else part * cap for cap in caps]
            made = [each for each in self._way.shares(clocks, tight) if each not in known]
            known |= {*made}
            before = len(self._made)
            for shares in made:
                self._try(ranks, shares)
            if any(fits(one, self._speeds) for one in self._made[before:]):
                return

    def _try(self, ranks: tuple[int, ...], shares: tuple[int, ...]) -> _Attempt | None:
        """Simulate one split, if there is one; return it where it does not fit the devices."""
        way, targets = self._way, [self._speeds.targets[rank] for rank in ranks]
        try:
            if len(shares) > MAX_TOTAL and self._left_out(self._like(), len(ranks)):
                return None
            split = self._splitter.split(way.network, way.strategy, shares)
            assignment = assign_groups(split.plan, len(shares), shares)
        except PartitionError as error:
            self._reason = str(error)
            logger.debug("%s with shares %s: %s", way.name, shares, error)
            return None
        self._last = split
        if self._left_out(split, len(ranks)):
            return None
        least = tuple(memory.total for memory in least_memory(split, assignment, targets))
        attempt = _Attempt(ranks, shares, split, least)
        if self._excess(attempt) > 1:
            self._unfit.append(attempt)
            return attempt
        found = list(self._variants(attempt))
        self._made += found
        if any(fits(one, self._speeds) for one in found):
            return None
        # Samples take memory too.
        attempt = _Attempt(ranks, shares, split, tuple(m.total for m in found[0].memory))
        self._unfit.append(attempt)
        return attempt

    def _like(self) -> Split:
        """Return a split for fewer devices, to tell what one for many would be like."""
        if self._last is None:
            shares = self._way.shares([1.0, 1.0], None)[0]
            self._last = self._splitter.split(self._way.network, self._way.strategy, shares)
        return self._last

    def _left_out(self, split: Split, devices: int) -> bool:
        """Tell whether it takes too many messages to simulate a split for so many devices."""
        samples = samples_for(WINDOWS[0] * self._copies(devices))
        reason = too_many(messages_of(split.plan, devices), samples, devices)
        if reason:
            self._reason = reason
            logger.info("%s: %s", self._way.name, reason)
        return bool(reason)

    def _copies(self, devices: int) -> int:
        return devices if self._way.strategy == "replicas" else 1

    def _excess(self, attempt: _Attempt) -> float:
        """Return how many times its room the device takes that lacks the most."""
        rooms = [room_of(self._speeds, rank) for rank in attempt.ranks]
        return max(
            need / room if room > 0 else math.inf
            for need, room in zip(attempt.needs, rooms, strict=True)
        )

    def _caps(self, short: _Attempt) -> list[float]:
        """Return what part of all groups each device can hold, told from a split that is too much.

        Memory is taken to grow with the part as it does from half a part to this one.
        """
        total, caps = sum(short.shares), []
        other, other_part = self._finer(total)
        places = assign_groups(short.split.plan, len(short.shares), short.shares)
        for rank, groups, need in zip(short.ranks, places, short.needs, strict=True):
            part, target = len(groups) / sum(map(len, places)), self._speeds.targets[rank]
            place = (2 * groups[0],) if other_part < part else (0,)
            (less,) = least_memory(other, [place], [target])
            growth = (need - less.total) / (part - other_part) if part != other_part else 0.0
            spare = room_of(self._speeds, rank) - need
            cap = part + spare / growth if growth > 0 else float(spare >= 0)
            caps.append(max(0.0, min(1.0, cap)))
        return caps

    def _finer(self, total: int) -> tuple[Split, float]:
        """Return a split into twice as many groups, or else the whole, and what part a group is."""
        network, strategy = self._way.network, self._way.strategy
        try:
            return self._splitter.split(network, strategy, (1,) * (2 * total)), 0.5 / total
        except PartitionError:
            return self._splitter.split(network, "single", (1,)), 1.0

    def _variants(self, attempt: _Attempt) -> Iterator[Estimate]:
        """Yield every wire type and the windows that are worth it."""
        split, ranks = attempt.split, attempt.ranks
        messages = messages_of(split.plan, len(ranks))
        for wire in self._wires if exchanges_of(split.plan) else self._wires[:1]:
            before: Estimate | None = None
            for window in (each * self._copies(len(ranks)) for each in WINDOWS):
                if before and too_many(messages, samples_for(window), len(ranks)):
                    break
                found = estimate(
                    self._way, split, attempt.shares, self._speeds, ranks, wire, window
                )
                if before and found.samples_per_second < ENOUGH * before.samples_per_second:
                    break
                yield found
                before = found
