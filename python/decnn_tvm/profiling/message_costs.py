# SPDX-License-Identifier: Apache-2.0
"""What messages cost the processors of workers, told by samples that these compute.

A ping in a loop of its own costs a small part of what a message costs between stages, with cold
caches and all threads of a worker awake. So samples run through the deployed package, and what the
processors spent on them beyond the stages, each as long as on ready data, is what messages cost::

    spent - stages = k (MESSAGE_CYCLES messages + BYTE_CYCLES bytes)

One number is fitted for each worker, `k`, in seconds per cycle of the cost model. Stages vary by
some percent, so few messages tell little of it; then it stays near what the stages' own cycles take
(`seconds_per_cycle`).
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from decnn_tvm.package import Package
from decnn_tvm.runtime.fleet import Fleet
from decnn_tvm.runtime.session import Sample, Session
from decnn_tvm.runtime.stage_timing import drawn
from decnn_tvm.simulation.message_load import MessageLoad, message_loads
from decnn_tvm.simulation.script import Scripts

IN_FLIGHT = 4
STAGE_SPREAD = 0.1
"""Standard deviation of what stages take among others, in parts of what they take on ready data."""
MESSAGE_SPREAD = 1.0
"""That of what a cycle of messages takes, in parts of what a cycle of stages does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What some samples took of one worker.

    Attributes
    ----------
    processor_seconds : float
        Of all threads of its process.
    samples : int
        Samples that it computed a part of.
    load : MessageLoad
        The messages of these.
    """

    processor_seconds: float
    samples: int
    load: MessageLoad


def run_samples(fleet: Fleet, package: Package, seconds: float, timeout: float) -> dict[int, Spent]:
    """Run samples for about `seconds`, at least two for each worker; return what they took.

    Raises
    ------
    ClusterError
        A worker failed or was lost.
    """
    plan, ranks = package.plan, [r for r, groups in enumerate(fleet.assignment) if groups]
    sample = {name: drawn(plan.value(name), 1) for name in plan.inputs}
    session = Session(plan, fleet, timeout)
    warm = len(list(session.stream([sample] * len(ranks), in_flight=IN_FLIGHT)))
    before = {rank: fleet.call(rank, "status") for rank in ranks}
    stream = _for_a_while(sample, seconds, 2 * len(ranks))
    count = sum(1 for _ in session.stream(stream, in_flight=IN_FLIGHT))
    after = {rank: fleet.call(rank, "status") for rank in ranks}
    loads = message_loads(Scripts(plan, fleet.assignment), range(warm, warm + count))
    return {
        rank: Spent(
            processor_seconds=_grown(before[rank], after[rank], "processor_seconds"),
            samples=round(_grown(before[rank], after[rank], "samples")),
            load=loads.get(rank, MessageLoad()),
        )
        for rank in ranks
    }


def seconds_per_cycle(
    spent: Spent, stages: Sequence[Mapping[str, float]], cycles: float
) -> float | None:
    """Return `k`, or None where neither messages nor the cost model tell it.

    It is the most likely one, if stages and messages are off by `STAGE_SPREAD` and `MESSAGE_SPREAD`
    and that is normally distributed: a mean of what the messages seem to take and of what a cycle
    of the stages takes, by the squares of how well each is known.

    Parameters
    ----------
    spent : Spent
        What samples took.
    stages : sequence of mapping
        What each of the worker's stages takes on ready data, as `time_stages` gives it.
    cycles : float
        What the cost model says of all of them.
    """
    own = sum(stage["processor_seconds"] for stage in stages)
    usual = own / cycles if cycles else None
    load = spent.load.cycles
    if not load:
        return usual
    seen = max(0.0, spent.processor_seconds - spent.samples * own) / load
    if not usual:
        return seen or None
    weight = (MESSAGE_SPREAD * usual * load / (STAGE_SPREAD * spent.samples * own)) ** 2
    return (weight * seen + usual) / (weight + 1)


def _for_a_while(sample: Sample, seconds: float, least: int) -> Iterator[Sample]:
    end = time.monotonic() + seconds
    for number in itertools.count():
        if number >= least and time.monotonic() > end:
            return
        yield sample


def _grown(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> float:
    return float(after[key]) - float(before[key])
