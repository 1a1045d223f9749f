# SPDX-License-Identifier: Apache-2.0
"""The workers of one deployment at work: looking at them, and bringing them into a new epoch.

What to do is decided by pure functions (`verdict`, `membership`, `pace`); this module looks at
the workers and calls them. `look` and `form` are called by the thread that waits for a result,
under the session's lock; only attempts to win back lost workers run beside it. Over 300 lines,
since the methods of one interface stay together.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from decnn_tvm.errors import ClusterError, ClusterTimeout, MemoryShortage, PackageError
from decnn_tvm.package import Package
from decnn_tvm.plan import Indices
from decnn_tvm.runtime.calls import LOOK
from decnn_tvm.runtime.devices import Home
from decnn_tvm.runtime.engine import Counters, Link, device_status
from decnn_tvm.runtime.enlistment import Enlistment
from decnn_tvm.runtime.epochs import Epochs, Failures
from decnn_tvm.runtime.inquiry import T, ask, clock_offset
from decnn_tvm.runtime.mate import Mate
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.runtime.recruiter import Recruiter
from decnn_tvm.runtime.relief import Relief
from decnn_tvm.runtime.remote_worker import RemoteWorker
from decnn_tvm.runtime.roster import Roster
from decnn_tvm.runtime.statistics import checked_status
from decnn_tvm.runtime.verdict import Sight, judge

logger = logging.getLogger(__name__)


class Fleet:
    """The `decnn_tvm.runtime.devices.Devices` of workers.

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
        Whether these shares were asked for or planned: they are refused rather than changed, and
        say how fast the devices are.
    target : str or mapping, optional
        Which of the package's targets to use, for all workers or by address.
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
        target: str | Mapping[str, str] | None = None,
    ) -> None:
        self._home, self._package, self._policy = home, package, policy
        self._roster = Roster(package, assignment, fixed=fixed)
        self._epochs = Epochs(home, package, host, policy)
        self._failed: dict[int, str] = {}
        self._resync = ""
        self._relief = Relief(self._roster, package.plan.strategy, on=policy.rebalance)
        self._looked = self._wished = 0.0
        self._wish = ""
        self._enlistment = Enlistment(home, package, policy, target, self._roster, self._epochs)
        self._recruiter = Recruiter(self._enlistment.again, policy.silence)

    @property
    def names(self) -> Sequence[str]:
        """What messages call the workers, by rank."""
        return [worker.name for worker in self._home.workers]

    @property
    def assignment(self) -> tuple[Indices, ...]:
        """Channel groups by rank; none for a worker that is lost or a spare."""
        return self._roster.assignment

    def enlist(self) -> None:
        """Open a session on every worker and send what it needs."""
        self._enlistment.all(self._policy.replicas)

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
            if (untried := self._roster.untried(rank)) and self._home.cause(rank):
                self._roster.suspect(rank, untried)
            self._lose(rank, why)
        reasons = [f"{self.names[rank]} {why}" for rank, why in verdict.lost.items()]
        reasons += [text for text in (verdict.resync, self._resync) if text]
        return "; ".join(reasons)

    def delivered(self) -> None:
        """Note that a sample has its result: the workers bear their shares, so far."""
        self._roster.results += 1

    def wish(self) -> str:
        """Return who is back, or stays slow, empty where nobody is."""
        now = time.monotonic()
        if now - self._wished >= LOOK:
            self._wished = now
            back = [f"{self.names[rank]} is back" for rank in self._recruiter.waiting(now)]
            relief = self._relief.look(self._epochs.watch.pulses(), now)
            self._wish = "; ".join([*back, *([relief] if relief else [])])
        return self._wish

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
        start, roster = time.monotonic(), self._roster
        self._take_in_newcomers(start)
        for rank in list(roster.mates):
            # Not by what it would be given now.
            if self._epochs.formed and (why := self._home.cause(rank)):
                self._lose(rank, why)
        while True:
            wanted = self._decide(start + self._policy.patience)
            shares = {rank: wanted[rank] for rank in roster.mates}
            if unsent := self._epochs.supply(roster.mates, shares):
                self._deal_with(unsent, wanted, self._not_sent)
                continue
            failures = self._epochs.begin(roster.mates, wanted, live, next_sample)
            if not failures:
                break
            self._deal_with(failures, wanted, self._fell_out)
        roster.begin(wanted)
        self._resync = self._wish = ""
        self._relief.begin(time.monotonic())
        if self._epochs.number:
            seconds = time.monotonic() - start
            logger.info("epoch %d after %.3f s: %s", self._epochs.number, seconds, wanted)
        return self._epochs.link()

    def add(self, address: str) -> None:
        """Have the worker at an address taken in at the next `form`."""
        rank, mate = self._enlistment.admit(address)
        self._roster.take_in(rank, mate)
        self._recruiter.forget(rank)

    def explain(self, ranks: Sequence[int]) -> str:
        """Return what is known about workers that do not answer."""
        return self._home.explain(ranks)

    def status(self, rank: int) -> dict[str, Any]:
        """Return a worker's counters; nothing was done by one that is lost, or does not answer."""
        plan = self._package.plan

        def question(worker: RemoteWorker) -> dict[str, Any]:
            return worker.ask("status", lambda status: checked_status(plan, status))

        status = self._ask(rank, question)
        return device_status(Counters(), None, None) if status is None else status

    def clock_offset(self, rank: int) -> float:
        """Return the seconds to add to a worker's monotonic clock to have this process's."""
        offset = self._ask(rank, lambda worker: clock_offset(lambda: worker.observe().at))
        return 0.0 if offset is None else offset

    def target(self, rank: int) -> str:
        """Return which of the package's targets a worker runs."""
        return self._roster.mates[rank].target

    def memory(self, rank: int) -> int:
        """Return the bytes that a session may take on a worker."""
        return self._roster.mates[rank].memory

    def call(self, rank: int, method: str, *args: int, timeout: float | None = None) -> Any:
        """Call a method of a worker's control plane and return its answer."""
        return self._roster.mates[rank].worker.call(method, *args, timeout=timeout)

    def close(self) -> None:
        """End the session on every worker that still answers, all at once."""
        mates = list(self._roster.mates.values())
        try:
            self._recruiter.close()
            with ThreadPoolExecutor(max(1, len(mates))) as pool:
                list(pool.map(Mate.end, mates))
            self._enlistment.dismiss_lost()
        finally:
            self._epochs.close()

    def _ask(self, rank: int, question: Callable[[RemoteWorker], T]) -> T | None:
        """Return a worker's answer, None from one that is lost, also where it has just been."""
        if (mate := self._roster.mates.get(rank)) is None:
            return None
        silent = self._epochs.watch.silent
        return ask(mate.worker, question, lambda: rank in silent() or bool(self._home.cause(rank)))

    def _sight(self) -> Sight:
        mates = self._roster.mates
        failed, self._failed = self._failed, {}
        return Sight(
            groups={rank: self._roster.owned(rank) for rank in mates},
            ended={**failed, **{rank: why for rank in mates if (why := self._home.cause(rank))}},
            silent=self._epochs.watch.silent(),
            short=self._epochs.watch.short(),
            pulses=self._epochs.watch.pulses(),
        )

    def _lose(self, rank: int, why: str) -> None:
        mate = self._roster.strike(rank, why)
        cause, owned = self._home.cause(rank), self._roster.owned(rank)
        explained = "" if cause and cause in why else self._home.explain([rank])
        mate.worker.disconnect()
        if owned and not self._policy.takeover:
            raise ClusterError(f"{mate.worker.name} {why}. {explained}".strip())
        logger.warning("%s %s; it had the groups %s", mate.worker.name, why, owned)
        if self._policy.rejoin:
            self._recruiter.lost(rank, time.monotonic())

    def _deal_with(
        self,
        failures: Failures,
        wanted: Sequence[Indices],
        handle: Callable[[int, int, Exception], None],
    ) -> None:
        """Handle what kept workers out of an epoch; the first deployment ends with it."""
        for rank, error in failures.items():
            first = not self._epochs.formed
            if first and (self._roster.fixed or not isinstance(error, MemoryShortage)):
                self._enlistment.raise_first(failures)
            handle(rank, len(wanted[rank]), error)

    def _not_sent(self, rank: int, count: int, error: Exception) -> None:
        """Deal with a worker that did not get what it was to own."""
        if not isinstance(error, PackageError):
            self._lose(rank, f"did not get what it needs: {error}")
        elif not self._roster.owned(rank):
            self._lose(rank, f"was not taken in: {error}")
        elif self._roster.keep():
            logger.error("the channel groups stay where they are: %s", error)
            self._relief.on = False
        else:
            raise error

    def _fell_out(self, rank: int, count: int, error: Exception) -> None:
        """Deal with a worker that did not come into a new epoch."""
        if isinstance(error, MemoryShortage):
            logger.warning("%s", error)
            self._roster.mates[rank].refused = count
            self._roster.refuse(rank, count)
        else:
            if isinstance(error, ClusterTimeout):
                self._roster.stalled(rank, count)
            elif count and self._home.cause(rank):
                self._roster.suspect(rank, count)
            self._lose(rank, f"did not take part in epoch {self._epochs.number}: {error}")

    def _decide(self, deadline: float) -> tuple[Indices, ...]:
        """Return who is to own what; wait for the lost where the others are too few."""
        while True:
            try:
                return self._roster.decide(self.names)
            except ClusterError:
                now = time.monotonic()
                hopeless = not (self._policy.rejoin and self._epochs.formed) or now > deadline
                if not self._take_in_newcomers(now) and hopeless:
                    raise
                time.sleep(LOOK)

    def _take_in_newcomers(self, now: float) -> bool:
        arrived = self._recruiter.arrived(now)
        for rank, mate in arrived.items():
            self._roster.take_in(rank, mate)
        return bool(arrived)
