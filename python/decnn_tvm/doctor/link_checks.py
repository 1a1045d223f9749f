# SPDX-License-Identifier: Apache-2.0
"""Measures every link of a cluster, and judges it by what the file says or by the others."""

from __future__ import annotations

import dataclasses
import json
import secrets
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import permutations
from typing import Any

from decnn_tvm.cluster_file import ClusterFile, ClusterLink
from decnn_tvm.doctor.findings import FAILURE, OK, WARNING, Finding, Pair, Verdict
from decnn_tvm.errors import ClusterError
from decnn_tvm.quantities import format_rate, format_time
from decnn_tvm.runtime.credentials import COORDINATOR
from decnn_tvm.runtime.probe import LONGEST, PAYLOAD, LinkSpeed, Measurement
from decnn_tvm.runtime.remote_worker import RemoteWorker, as_text
from decnn_tvm.runtime.transport import ZmqTransport
from decnn_tvm.transfers import HOST

SLOW = 0.5
"""Share of the expected bandwidth below which a link is slow: 100 Mb/s in place of 1 Gb/s, or a
cable that renegotiates; what traffic of others costs stays above it."""
LATE = 1e-3
"""Seconds beyond twice the expected latency from which a link is late."""

Route = Callable[[int, int, str], str]
"""``(sender, receiver, address)`` gives the address by which the sender reaches the receiver."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """One machine's end: how it is told to measure or to answer, and where it listens."""

    rank: int
    name: str
    address: str
    take: Callable[[str, Measurement, str], LinkSpeed | None]


class LinkProber:
    """Measures links between workers, and between them and this machine; use it with ``with``.

    Parameters
    ----------
    workers : dict of int to RemoteWorker
        Connected workers by rank; busy ones are refused by themselves.
    host : str
        Interface of this machine's data plane.
    encrypt : bool
        Whether there are keys.
    route : callable
        How one reaches another; straight, unless a tunnel or a proxy stands between them.
    """

    def __init__(
        self,
        workers: Mapping[int, RemoteWorker],
        *,
        host: str,
        encrypt: bool,
        route: Route = lambda source, target, address: address,
    ) -> None:
        self._cluster, self._route = secrets.token_bytes(16), route
        self._transport = ZmqTransport(
            host, cluster=self._cluster, max_payload=PAYLOAD, encrypt=encrypt
        )
        self._number = 0
        self._opened: list[RemoteWorker] = []
        self.refused: dict[str, str] = {}
        own = f"{host}:{self._transport.locator}"
        self._ends = [_End(rank=HOST, name=COORDINATOR, address=own, take=self._take)]
        for rank, worker in workers.items():
            try:
                self._ends.append(self._open(rank, worker))
            except ClusterError as error:
                self.refused[worker.name] = str(error)

    def pairs(self) -> list[Pair]:
        """Return all ordered pairs of machines."""
        return [(a.name, b.name) for a, b in permutations(self._ends, 2)]

    def measure(self, source: str, target: str) -> LinkSpeed:
        """Measure the way from one machine to another.

        Raises
        ------
        ClusterError
            One of them does not hear the other, or is gone.
        """
        ends = {end.name: end for end in self._ends}
        sender, receiver = ends[source], ends[target]
        self._number += 1
        with ThreadPoolExecutor(1) as pool:
            answering = pool.submit(self._tell, receiver, "answer", sender)
            try:
                speed = self._tell(sender, "measure", receiver)
            finally:
                failed = answering.exception()
        if failed is not None:
            raise failed
        assert speed is not None
        return speed

    def __enter__(self) -> LinkProber:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._opened:
            if not worker.gone():
                worker.call("probe", "close", "{}")
        self._transport.close()

    def _open(self, rank: int, worker: RemoteWorker) -> _End:
        locator = worker.ask("probe", as_text, "open", json.dumps({"cluster": self._cluster.hex()}))
        self._opened.append(worker)

        def take(step: str, measurement: Measurement, address: str) -> LinkSpeed | None:
            request = {
                "number": measurement.number,
                "rank": measurement.rank,
                "peer": measurement.peer,
                "address": address,
            }
            return worker.ask("probe", _speed, step, json.dumps(request), timeout=3 * LONGEST)

        return _End(rank=rank, name=worker.name, address=f"{worker.host}:{locator}", take=take)

    def _take(self, step: str, measurement: Measurement, address: str) -> LinkSpeed | None:
        self._transport.connect({measurement.peer: address})
        if step == "measure":
            return measurement.measure(self._transport)
        measurement.answer(self._transport)
        return None

    def _tell(self, end: _End, step: str, other: _End) -> LinkSpeed | None:
        measurement = Measurement(
            number=self._number, rank=end.rank, peer=other.rank, cluster=self._cluster
        )
        return end.take(step, measurement, self._route(end.rank, other.rank, other.address))


def check_links(
    prober: LinkProber,
    cluster: ClusterFile,
    progress: Callable[[str, float, float], None] | None = None,
) -> tuple[list[Finding], dict[Pair, LinkSpeed]]:
    """Measure every link, one after the other, and judge them all."""
    findings = [
        Finding(subject=name, check="links", verdict=WARNING, detail=why, remedy="Check it idle.")
        for name, why in prober.refused.items()
    ]
    speeds: dict[Pair, LinkSpeed] = {}
    pairs = prober.pairs()
    for step, (source, target) in enumerate(pairs):
        if progress is not None:
            progress(f"{source} -> {target}", step, len(pairs))
        try:
            speeds[source, target] = prober.measure(source, target)
        except ClusterError as error:
            findings.append(_unheard(source, target, error))
    return findings + judge_links(speeds, cluster), speeds


def judge_links(speeds: Mapping[Pair, LinkSpeed], cluster: ClusterFile) -> list[Finding]:
    """Return a finding for every measured link."""
    return [
        _judge(pair, speed, cluster.link(*pair), [s for p, s in speeds.items() if p != pair])
        for pair, speed in speeds.items()
    ]


def measured_links(speeds: Mapping[Pair, LinkSpeed]) -> tuple[ClusterLink, ...]:
    """Return what was measured as links of a cluster file: the worse of both directions."""
    links: dict[frozenset[str], ClusterLink] = {}
    for (source, target), speed in speeds.items():
        other = links.get(frozenset((source, target)))
        links[frozenset((source, target))] = ClusterLink(
            between=other.between if other else (source, target),
            bandwidth=min(speed.bandwidth, other.bandwidth) if other else speed.bandwidth,
            latency=max(speed.latency, other.latency) if other else speed.latency,
        )
    return tuple(links.values())


def _judge(
    pair: Pair, speed: LinkSpeed, stated: ClusterLink | None, others: Sequence[LinkSpeed]
) -> Finding:
    expected, source = None, ""
    if stated is not None:
        expected, source = stated.bandwidth, "the cluster file says"
    elif len(others) > 1:
        expected, source = statistics.median(s.bandwidth for s in others), "the others' median is"
    text = f"{format_rate(speed.bandwidth)}, {format_time(speed.latency)}"
    if expected is not None and speed.bandwidth < SLOW * expected:
        return _link(
            pair,
            WARNING if stated is None else FAILURE,
            f"slow: {text}; {source} {format_rate(expected)}",
            "Look at the cable and at the port of the switch (100 Mb/s?), or state the link in "
            "the cluster file as it is.",
        )
    if stated is not None and speed.latency > 2 * stated.latency + LATE:
        return _link(
            pair,
            FAILURE,
            f"late: {text}; the cluster file says {format_time(stated.latency)}",
            "Use a cable in place of a radio link, or state the link in the file as it is.",
        )
    return _link(pair, OK, text)


def _unheard(source: str, target: str, error: Exception) -> Finding:
    text, _, remedy = str(error).partition(". ")
    return _link((source, target), FAILURE, text, remedy or "Look at the logs of both workers.")


def _link(pair: Pair, verdict: Verdict, detail: str, remedy: str = "") -> Finding:
    return Finding(
        subject=f"{pair[0]} -> {pair[1]}",
        check="link",
        verdict=verdict,
        detail=detail,
        remedy=remedy,
    )


def _speed(answer: Any) -> LinkSpeed | None:
    """Read what a worker measured; it measured nothing where it only answered."""
    if answer is None:
        return None
    speed = LinkSpeed(**answer)
    if not all(isinstance(value, (int, float)) for value in dataclasses.astuple(speed)):
        raise TypeError("a speed that is no number")
    return speed
