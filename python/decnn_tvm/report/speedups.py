# SPDX-License-Identifier: Apache-2.0
"""How each alternative would scale on more devices like the fastest one, and what limits it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from decnn_tvm.network import Network
from decnn_tvm.planning.estimates import Estimate
from decnn_tvm.planning.planner import Goal, rank, score
from decnn_tvm.planning.speeds import Speeds
from decnn_tvm.report.charts import Curve
from decnn_tvm.simulation import Machines
from decnn_tvm.transfers import HOST


def like_the_fastest(speeds: Speeds, count: int) -> Speeds:
    """Return a cluster of `count` devices like the fastest, on its link to the coordinator."""
    fastest = max(range(len(speeds.clocks)), key=lambda rank: speeds.clocks[rank])
    machines = speeds.machines
    device = machines.devices[fastest]
    return Speeds(
        machines=Machines(
            devices=(device,) * count, link=machines.link_of(HOST, fastest), host=machines.host
        ),
        clocks=(speeds.clocks[fastest],) * count,
        targets=(speeds.targets[fastest],) * count,
        measured=speeds.measured,
    )


def speedup_curves(
    network: Network,
    speeds: Speeds,
    counts: Sequence[int],
    *,
    goal: Goal,
    exact: bool,
    winograd: bool | None = None,
    progress: Callable[[str, float, float], None] | None = None,
) -> list[Curve]:
    """Return a curve for each alternative, and the limits of the one that wins on most devices.

    Curves are relative to the network on one device, so those of the network itself begin at 1
    there. A decoupled version is another network, so its curve begins with the first count it is
    for. Versions that differ only in the number of groups, which grows with the devices, share one.
    The compute limit is what it would give if messages took no time: the work of the whole network
    on one device by that of the busiest of n. The link limit is what the busiest port lets through,
    the coordinator's among them.
    """
    points: dict[str, list[tuple[int, float]]] = {}
    estimates: dict[str, dict[int, Estimate]] = {}
    single = 0.0
    alone: Estimate | None = None
    for step, count in enumerate(counts):
        if progress is not None:
            progress(f"{count} devices", step, len(counts))
        cluster = like_the_fastest(speeds, count)
        ranking = rank(network, cluster, goal=goal, exact=exact, winograd=winograd, counts=(count,))
        alone = alone or ranking.single
        single = single or score(ranking.single, goal)
        for entry in ranking.entries:
            found = entry.estimate
            # Fewer devices than there are would repeat the point before.
            if found is not None and len(found.ranks) == count:
                family = _family(entry.name)
                points.setdefault(family, _start(found)).append(
                    (count, score(found, goal) / single)
                )
                estimates.setdefault(family, {})[count] = found
    assert alone is not None
    points.pop("one device", None)
    if not points:
        return [Curve("one device", [(1, 1.0)])]
    winner = max(points, key=lambda name: points[name][-1])
    curves = [Curve(name, found) for name, found in points.items()]
    return curves + _limits(winner, estimates[winner], alone, single, goal)


def _family(name: str) -> str:
    """Return the name without the number of groups."""
    return re.sub(r"G=\d+ ", "", name)


def _start(estimate: Estimate) -> list[tuple[int, float]]:
    return [(1, 1.0)] if estimate.alternative.trained else []


def _limits(
    winner: str, estimates: dict[int, Estimate], alone: Estimate, single: float, goal: Goal
) -> list[Curve]:
    compute: list[tuple[int, float]] = []
    link: list[tuple[int, float]] = []
    for count, found in estimates.items():
        if busiest := max(found.compute_seconds):
            start = _start(found) if not compute else []
            compute += [*start, (count, max(alone.compute_seconds) / busiest)]
        port = found.busiest_port[1].busy_seconds
        if goal == "throughput" and port:
            link.append((count, 1 / port / single))
    return [
        Curve(f"{name} limit of {winner}", points, limit=True)
        for name, points in {"compute": compute, "link": link}.items()
        if points
    ]
