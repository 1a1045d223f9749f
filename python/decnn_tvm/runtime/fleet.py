# SPDX-License-Identifier: Apache-2.0
"""The workers of one deployment: who is there, who owns what, and the change to a new epoch.

What to do is decided by pure functions (`verdict`, `membership`, `pace`); this module looks at
the workers, calls them, and remembers. `look` and `form` are called by the thread that waits for
a result, under the session's lock; only attempts to win back lost workers run beside it.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Protocol

from decnn_tvm.errors import ClusterError, MemoryShortage
from decnn_tvm.package import Package
from decnn_tvm.plan import Indices
from decnn_tvm.runtime.engine import Counters, Link, device_status
from decnn_tvm.runtime.heartbeat import Watch
from decnn_tvm.runtime.mate import Mate, files_of
from decnn_tvm.runtime.membership import Member, reassign, replicas, share_bytes, shortage
from decnn_tvm.runtime.pace import Reading, Trend, observe, with_speeds
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.runtime.recruiter import Recruiter
from decnn_tvm.runtime.remote_worker import RemoteWorker
from decnn_tvm.runtime.steps import largest_payload
from decnn_tvm.runtime.transport import ZmqTransport
from decnn_tvm.runtime.verdict import Sight, judge
from decnn_tvm.runtime.wire import Header
from decnn_tvm.transfers import HOST

logger = logging.getLogger(__name__)

LOOK = 0.05
"""Seconds between two looks at the workers."""


class Home(Protocol):
    """The cluster that a fleet's workers belong to."""

    @property
    def workers(self) -> Sequence[RemoteWorker]:
        """The workers, by rank; one that is lost keeps its place."""

    @property
    def encrypted(self) -> bool:
        """Whether both planes run with keys."""

    def cause(self, rank: int) -> str:
        """Return why a worker is gone, empty where it is there."""

    def explain(self, ranks: Sequence[int]) -> str:
        """Return what is known about workers that do not answer."""

    def revive(self, rank: int) -> RemoteWorker:
        """Connect to a lost worker again."""

    def admit(self, address: str) -> int:
        """Connect to a worker and return its rank."""

    def route(self, source: int, target: int, address: str) -> str:
        """Return the address by which one rank reaches another's data plane."""


class Fleet:
    """The `decnn_tvm.runtime.session.Devices` of workers.

    Parameters
    ----------
    home : Home
        The cluster.
    package : Package
        What they run.
    host : str
        Interface of the coordinator's data plane.
    policy : Policy
        How to deal with changes.
    assignment : sequence of tuple of int
        Channel groups by rank, to begin with.
    fixed : bool
        Whether the user asked for these shares: they are refused rather than changed, and say how
        fast the devices are.
    target : str, optional
        Which of the package's targets to use.
    """

    def __init__(
        self,
        home: Home,
        package: Package,
        host: str,
        policy: Policy,
        assignment: Sequence[Indices],
        *,
        fixed: bool = False,
        target: str | None = None,
    ) -> None:
        self.assignment = tuple(assignment)
        self._home, self._package, self._host = home, package, host
        self._policy, self._fixed, self._target = policy, fixed, target
        self._watch = Watch(policy)
        self._cluster, self._epoch = secrets.token_bytes(16), -1
        self._transport = ZmqTransport(
            host,
            self._watch,
            cluster=self._cluster,
            max_payload=largest_payload(package.plan),
            encrypt=home.encrypted,
        )
        self._mates: dict[int, Mate] = {}
        self._causes: dict[int, str] = {}
        self._failed: dict[int, str] = {}
        self._resync = ""
        self._changed = self._formed = False
        self._seconds = {r: 1 / len(g) for r, g in enumerate(assignment)} if fixed else {}
        self._trend = Trend(time.monotonic())
        self._looked = 0.0
        self._recruiter = Recruiter(self._win_back)
        share = {k: share_bytes(package.plan, k) for k in range(package.plan.groups + 1)}
        self._need: Mapping[int, int] = share

    @property
    def names(self) -> Sequence[str]:
        """What messages call the workers, by rank."""
        return [worker.name for worker in self._home.workers]

    def enlist(self) -> None:
        """Open a session on every worker and send what it needs."""
        cancelled = threading.Event()
        workers = dict(enumerate(self._home.workers))

        def open_session(rank: int) -> Mate:
            return self._enlist(workers[rank])

        def keep(rank: int, outcome: Future[Mate]) -> None:
            if outcome.exception() is None:
                self._mates[rank] = outcome.result()

        self._raise_first(self._each(list(workers), open_session, keep, cancelled))
        self.assignment = self._decide()
        copies = replicas(self._members(), self._package.plan.groups, self._policy.replicas)
        files = {
            rank: files_of(self._package, mate.target, self._stored(rank, copies))
            for rank, mate in self._mates.items()
        }
        self._package.verify(sorted({name for names in files.values() for name in names[1:]}))
        self._raise_first(
            self._each(
                list(self._mates),
                lambda rank: self._mates[rank].supply(
                    self._package, self._stored(rank, copies), cancelled
                ),
                cancelled=cancelled,
            )
        )

    def look(self) -> str:
        """Look at the workers; return why they need a new epoch, empty where they don't.

        Raises
        ------
        ClusterError
            A worker is lost, and the policy has no takeover.
        """
        now = time.monotonic()
        if now - self._looked < LOOK:
            return ""
        self._looked = now
        verdict = judge(self._sight())
        for rank, why in verdict.lost.items():
            self._lose(rank, why)
        reasons = [f"{self.names[rank]} {why}" for rank, why in verdict.lost.items()]
        reasons += [text for text in (verdict.resync, self._resync) if text]
        reasons += self._newcomers(now)
        reasons += self._slow(now) if not reasons else []
        return "; ".join(reasons)

    def failed(self, rank: int, text: str) -> None:
        """Take in what a worker says has stopped its engine.

        Raises
        ------
        ClusterError
            It would stop any other device as well, or the policy has no takeover.
        """
        if text.startswith("PackageError") or not self._policy.takeover:
            raise ClusterError(f"{self.names[rank]} failed: {text}")
        if text.startswith("WireError"):
            self._resync = f"{self.names[rank]}: {text}"
        else:
            self._failed[rank] = f"failed: {text}"

    def form(self, live: Sequence[int], next_sample: int) -> Link:
        """Bring the workers into a new epoch; `assignment` then says who owns what.

        Parameters
        ----------
        live : sequence of int
            Samples that will be sent again.
        next_sample : int
            The first sample that has not been submitted.

        Raises
        ------
        ClusterError
            Those that are left can't hold all channel groups; says what is missing.
        """
        start = time.monotonic()
        while True:
            wanted = self._decide()
            failures = self._begin(wanted, live, next_sample)
            if not failures:
                break
            if not self._formed and not isinstance(next(iter(failures.values())), MemoryShortage):
                self._raise_first(failures)
            for rank, error in failures.items():
                self._fell_out(rank, len(wanted[rank]), error)
        self.assignment, self._formed, self._changed, self._resync = wanted, True, False, ""
        self._trend = Trend(time.monotonic())
        if self._epoch:
            seconds = time.monotonic() - start
            logger.info("epoch %d after %.3f s: %s", self._epoch, seconds, self.assignment)
        return Link.of(self._transport, self._header())

    def add(self, address: str) -> None:
        """Have the worker at an address taken in at the next `form`."""
        rank = self._home.admit(address)
        if rank in self._mates:
            raise ClusterError(f"{self.names[rank]} takes part already.")
        worker = self._home.workers[rank]
        self._mates[rank] = self._enlist(worker)
        self._recruiter.forget(rank)
        self._changed = True

    def explain(self, ranks: Sequence[int]) -> str:
        """Return what is known about workers that do not answer."""
        return self._home.explain(ranks)

    def status(self, rank: int) -> dict[str, Any]:
        """Return a worker's counters; nothing was done by one that is lost."""
        if rank not in self._mates:
            return device_status(Counters(), None, None)
        status: dict[str, Any] = self._mates[rank].worker.call("status")
        return status

    def close(self) -> None:
        """End the session on every worker that still answers, all at once."""
        try:
            self._recruiter.close()
            if self._mates:
                with ThreadPoolExecutor(len(self._mates)) as pool:
                    list(pool.map(Mate.end, self._mates.values()))
        finally:
            self._transport.close()

    def _enlist(self, worker: RemoteWorker) -> Mate:
        return Mate.enlist(worker, self._package, self._target, self._policy, self._cluster)

    def _sight(self) -> Sight:
        ended = {rank: why for rank in self._mates if (why := self._home.cause(rank))}
        failed, self._failed = self._failed, {}
        return Sight(
            groups={rank: self._owned(rank) for rank in self._mates},
            ended={**failed, **ended},
            silent=self._watch.silent(),
            short=self._watch.short(),
            pulses=self._watch.pulses(),
        )

    def _lose(self, rank: int, why: str) -> None:
        mate = self._mates.pop(rank)
        mate.worker.disconnect()
        if not self._policy.takeover:
            explained = "" if self._home.cause(rank) in why else self._home.explain([rank])
            raise ClusterError(f"{mate.worker.name} {why}. {explained}".strip())
        logger.warning("%s %s; it had the groups %s", mate.worker.name, why, self._owned(rank))
        self._causes[rank] = why
        self._changed = True
        if self._policy.rejoin:
            self._recruiter.lost(rank, time.monotonic())

    def _fell_out(self, rank: int, count: int, error: Exception) -> None:
        """Deal with a worker that did not come into a new epoch."""
        if isinstance(error, MemoryShortage) and not self._fixed:
            logger.warning("%s", error)
            self._mates[rank].refused = count
            self._changed = True
        elif rank in self._mates:
            self._lose(rank, f"did not take part in epoch {self._epoch}: {error}")

    def _newcomers(self, now: float) -> list[str]:
        arrived = self._recruiter.arrived(now)
        self._mates.update(arrived)
        self._changed = self._changed or bool(arrived)
        for rank in arrived:
            self._causes.pop(rank, None)
        return [f"{self.names[rank]} is back" for rank in arrived]

    def _win_back(self, rank: int, cancelled: threading.Event) -> Mate:
        """Connect to a lost worker again and send what it is going to need; runs beside."""
        worker = self._home.revive(rank)
        try:
            mate = self._enlist(worker)
            newcomer = self._member(rank, mate)
            others = [m for m in self._members() if m.rank != rank]
            after = reassign([*others, newcomer], self._package.plan.groups)
            mate.supply(self._package, (after or {}).get(rank, ()), cancelled)
        except BaseException:
            worker.disconnect()
            raise
        return mate

    def _slow(self, now: float) -> list[str]:
        if not self._policy.rebalance or self._changed:
            return []
        pulses = self._watch.pulses()
        readings = {r: Reading(p.samples, p.seconds) for r, p in pulses.items() if r in self._mates}
        self._trend = observe(self._trend, readings, self._members(), now)
        if not self._trend.settled:
            return []
        self._seconds, self._changed = dict(self._trend.seconds), True
        times = ", ".join(f"worker {r} {1e3 * s:.2f}" for r, s in self._seconds.items())
        return [f"a device stays slow (ms per sample and group: {times})"]

    def _owned(self, rank: int) -> Indices:
        return self.assignment[rank] if rank < len(self.assignment) else ()

    def _member(self, rank: int, mate: Mate) -> Member:
        libraries = self._package.manifest.targets[mate.target].libraries
        counts = [k for k in sorted(libraries) if self._need[k] <= mate.memory and k < mate.refused]
        return Member(
            rank=rank,
            groups=self._owned(rank),
            counts=tuple(counts),
            stored=mate.stored(self._package.plan.groups),
        )

    def _members(self) -> list[Member]:
        members = [self._member(rank, mate) for rank, mate in sorted(self._mates.items())]
        return with_speeds(members, self._seconds)

    def _decide(self) -> tuple[Indices, ...]:
        """Return who is to own what; raise where it can't be."""
        members = self._members()
        held = {group for m in members for group in m.groups}
        fits = all(not m.groups or len(m.groups) in m.counts for m in members)
        if fits and len(held) == self._package.plan.groups and not self._changed:
            return self.assignment
        after = None
        if not self._fixed or self._formed:
            after = reassign(members, self._package.plan.groups)
        if after is None:
            raise self._shortage(members)
        length = max(len(self.assignment), max(after) + 1)
        return tuple(after.get(rank, ()) for rank in range(length))

    def _shortage(self, members: Sequence[Member]) -> ClusterError:
        libraries = {
            rank: sorted(self._package.manifest.targets[mate.target].libraries)
            for rank, mate in self._mates.items()
        }
        memory = {rank: mate.memory for rank, mate in self._mates.items()}
        text = shortage(
            members,
            self._package.plan.groups,
            dict(enumerate(self.names)),
            self._need,
            memory,
            libraries,
        )
        causes = [f"{self.names[rank]} {why}" for rank, why in self._causes.items()]
        short = any(k not in m.counts for m in members for k in libraries[m.rank])
        kind = MemoryShortage if short else ClusterError
        return kind("\n".join([text, *causes]))

    def _header(self) -> Header:
        return Header(cluster=self._cluster, epoch=self._epoch, sample=0, movement=0, source=HOST)

    def _begin(
        self, wanted: Sequence[Indices], live: Sequence[int], next_sample: int
    ) -> dict[int, Exception]:
        """Start an epoch on every worker; return what went wrong, by rank."""
        cancelled = threading.Event()
        ranks = list(self._mates)

        def supply(rank: int) -> None:
            start, mate = time.monotonic(), self._mates[rank]
            if sent := mate.supply(self._package, wanted[rank], cancelled):
                seconds = time.monotonic() - start
                logger.info("%s: sent %.1f MB in %.2f s", mate.worker.name, sent / 1e6, seconds)

        failures = self._each(ranks, supply, cancelled=cancelled)
        if failures:
            return failures
        self._epoch += 1
        planes = {rank: mate.address for rank, mate in self._mates.items()}
        self._transport.begin(
            self._header(), {r: self._home.route(HOST, r, a) for r, a in planes.items()}
        )
        planes[HOST] = f"{self._host}:{self._transport.locator}"
        common = {
            "assignment": wanted,
            "cluster": self._cluster.hex(),
            "epoch": self._epoch,
            "live": list(live),
            "next_sample": next_sample,
        }

        def start(rank: int) -> None:
            addresses = {
                peer: self._home.route(rank, peer, a) for peer, a in planes.items() if peer != rank
            }
            mate = self._mates[rank]
            own = {**common, "rank": rank, "target": mate.target, "addresses": addresses}
            mate.worker.call("start", json.dumps(own))

        return self._each(ranks, start, cancelled=cancelled)

    def _each(
        self,
        ranks: Sequence[int],
        action: Callable[[int], Any],
        keep: Callable[[int, Future[Any]], None] = lambda rank, outcome: None,
        cancelled: threading.Event | None = None,
    ) -> dict[int, Exception]:
        """Do something with workers at once; return the errors by rank.

        One that falls silent or dies meanwhile is disconnected, so that its call ends.
        """
        if not ranks:
            return {}
        with ThreadPoolExecutor(len(ranks)) as pool:
            calls = {rank: pool.submit(action, rank) for rank in ranks}
            try:
                while wait(calls.values(), LOOK).not_done:
                    self._hang_up_on_the_lost(r for r, call in calls.items() if not call.done())
                    if not self._formed and any(c.done() and c.exception() for c in calls.values()):
                        self._cancel(cancelled)
            except BaseException:
                # An interrupt must not wait for uploads that nobody needs any more.
                self._cancel(cancelled)
                raise
        for rank, call in calls.items():
            keep(rank, call)
        errors = {rank: call.exception() for rank, call in calls.items()}
        return {rank: e for rank, e in errors.items() if isinstance(e, Exception)}

    def _hang_up_on_the_lost(self, ranks: Any) -> None:
        silent = self._watch.silent() if self._formed else ()
        for rank in ranks:
            if rank in self._mates and (rank in silent or self._home.cause(rank)):
                self._mates[rank].worker.disconnect()

    @staticmethod
    def _cancel(cancelled: threading.Event | None) -> None:
        if cancelled is not None:
            cancelled.set()

    def _raise_first(self, failures: Mapping[int, Exception]) -> None:
        """Raise an error of the first deployment, with the cause where a worker has gone."""
        for rank, error in failures.items():
            if isinstance(error, ClusterError) and (why := self._home.cause(rank)):
                raise ClusterError(f"{self.names[rank]} {why}") from error
        own = [e for e in failures.values() if "cancelled" not in str(e)]
        for error in own or failures.values():
            raise error

    def _stored(self, rank: int, copies: Mapping[int, frozenset[int]]) -> Indices:
        return tuple(sorted({*self._owned(rank), *copies.get(rank, ())}))
