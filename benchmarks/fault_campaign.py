# SPDX-License-Identifier: Apache-2.0
"""A stream of images, and what is done to its workers and links while it runs."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from benchmarks.footprint import Footprint, footprint
from benchmarks.harness import progress
from benchmarks.streaming import Streaming
from decnn_tvm.runtime import LocalCluster, Session
from decnn_tvm.testing.link_proxy import Link, Proxies
from decnn_tvm.transfers import HOST

KINDS = ("kill", "freeze", "cut", "slow", "corrupt", "leave")
IN_FLIGHT = 4
FROZEN = 2.5
"""Seconds that a frozen worker and a cut link stay so: longer than a worker may be silent."""
SLOW_SECONDS = 1.5
DAMAGE = 0.5
"""Seconds in which a damaged frame shows."""
RECOVERY = 180.0
"""Seconds after which a stream that is not whole again has failed: on a busy machine a worker may
look slow, and is then without groups for a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is going to happen: after `images` images, to `rank`, on its link to `peer`."""

    kind: str
    images: int
    rank: int
    peer: int


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What came of a fault, in seconds.

    Attributes
    ----------
    next_output : float
        From the fault to the result of the first image that was submitted after it; for damage
        the longest pause.
    pause : float
        The longest time between two results until all was well again.
    whole : float
        From the fault until every worker had channel groups again.
    """

    kind: str
    next_output: float
    pause: float
    whole: float


class ProxiedCluster(LocalCluster):
    """Local workers whose data planes lie behind proxies."""

    def __init__(self, count: int, proxies: Proxies) -> None:
        self._proxies = proxies
        super().__init__(count, threads=1)

    def route(self, source: int, target: int, address: str) -> str:
        """Return the address of the proxy for this link."""
        return self._proxies.route(source, target, address)


def faults(count: int, workers: int, seed: int, gap: tuple[int, int]) -> Iterator[Fault]:
    """Yield faults in an order that the seed decides, every kind equally often."""
    draw = random.Random(seed)
    kinds: list[str] = []
    for _ in range(count):
        if not kinds:
            kinds = list(KINDS)
            draw.shuffle(kinds)
        rank = draw.randrange(workers)
        peer = draw.choice([HOST, *(r for r in range(workers) if r != rank)])
        yield Fault(kind=kinds.pop(), images=draw.randint(*gap), rank=rank, peer=peer)


class Disturbed:
    """A stream, and what is done to its workers.

    Parameters
    ----------
    cluster, proxies, session
        The workers, their links, and what runs on them.
    streaming : Streaming
        Images and answers.
    """

    def __init__(
        self, cluster: LocalCluster, proxies: Proxies, session: Session, streaming: Streaming
    ) -> None:
        self._cluster, self._proxies = cluster, proxies
        self._session, self._streaming = session, streaming
        self._stream = session.stream(streaming.source(), in_flight=IN_FLIGHT)
        self._mending: threading.Timer | None = None
        self._last = time.monotonic()

    def run(self, fault: Fault) -> Outcome:
        """Stream on, let the fault happen, and stream until all is well again."""
        self.advance(fault.images)
        start, submitted = time.monotonic(), self._streaming.submitted
        self._last = start
        self._cause(fault)
        pause, after = 0.0, 0.0
        while not after or self._lasts() or not self._whole():
            pause = max(pause, self.advance(1))
            now = self._last
            if not after and self._streaming.delivered > submitted:
                after = now - start
            if now - start > RECOVERY:
                raise SystemExit(f"{fault}: not whole again within {RECOVERY:g} s")
        # When a damaged chunk passes is not known: the longest wait holds what it has cost.
        lasted = pause if fault.kind == "corrupt" else after
        return Outcome(
            kind=fault.kind, next_output=lasted, pause=pause, whole=time.monotonic() - start
        )

    def advance(self, images: int) -> float:
        """Take and check results; return the longest wait for one."""
        longest = 0.0
        for output in islice(self._stream, images):
            now = time.monotonic()
            longest, self._last = max(longest, now - self._last), now
            self._streaming.check(output)
        return longest

    def close(self) -> None:
        """Take what is under way, so that nothing is lost at the end either."""
        self._streaming.ended = True
        self.advance(IN_FLIGHT + 1)

    def _whole(self) -> bool:
        return all(self._session.assignment)

    def _lasts(self) -> bool:
        return self._mending is not None and self._mending.is_alive()

    def _mend_after(self, seconds: float, mend: Callable[[], None]) -> None:
        # A stream that stands still would never get to it: the time is another thread's.
        self._mending = threading.Timer(seconds, mend)
        self._mending.daemon = True
        self._mending.start()

    def _cause(self, fault: Fault) -> None:
        pid = self._cluster.process_ids[fault.rank]
        both = [
            self._proxies.links[fault.rank, fault.peer],
            self._proxies.links[fault.peer, fault.rank],
        ]
        if fault.kind in ("kill", "leave"):
            os.kill(pid, signal.SIGKILL if fault.kind == "kill" else signal.SIGTERM)
        elif fault.kind == "freeze":
            os.kill(pid, signal.SIGSTOP)
            self._mend_after(FROZEN, lambda: os.kill(pid, signal.SIGCONT))
        elif fault.kind == "cut":
            self._cut(both)
        elif fault.kind == "slow":
            both[0].rate = 250e3
            self._mend_after(SLOW_SECONDS, lambda: setattr(both[0], "rate", 0.0))
        else:
            both[0].corrupt = 1
            self._mend_after(DAMAGE, lambda: None)

    def _cut(self, links: list[Link]) -> None:
        for link in links:
            self._proxies.cut(link, True)

        def mend() -> None:
            for link in links:
                self._proxies.cut(link, False)

        self._mend_after(FROZEN, mend)


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """What came of all faults, and what the processes took before and after them."""

    outcomes: list[Outcome]
    before: Footprint
    after: Footprint
    workers_before: Footprint
    workers_after: Footprint


def campaign(
    streaming: Streaming, workers: int, count: int, seed: int, gap: tuple[int, int]
) -> Campaign:
    """Run `count` faults on `workers` workers."""
    outcomes = []
    with Proxies() as proxies, ProxiedCluster(workers, proxies) as cluster:
        with cluster.deploy(streaming.package) as session:
            streaming.begin(session)
            disturbed = Disturbed(cluster, proxies, session, streaming)
            disturbed.advance(gap[1])
            before, workers_before = footprint(), footprint(cluster.process_ids)
            for number, fault in enumerate(faults(count, workers, seed, gap)):
                outcomes.append(disturbed.run(fault))
                if number % 10 == 9 or count < 10:
                    last = outcomes[-1]
                    progress(f"{workers} workers, fault {number + 1}: {last}")
            disturbed.advance(gap[1])
            after, workers_after = footprint(), footprint(cluster.process_ids)
            disturbed.close()
    return Campaign(
        outcomes=outcomes,
        before=before,
        after=after,
        workers_before=workers_before,
        workers_after=workers_after,
    )
