# SPDX-License-Identifier: Apache-2.0
"""Workers that a coordinator is connected to, and deployment to them.

Over 300 lines, many of which tell users of the one public class what it takes and raises.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from decnn_tvm.assignment import assign_groups
from decnn_tvm.errors import ClusterError
from decnn_tvm.package import Package
from decnn_tvm.plan import Plan
from decnn_tvm.runtime.credentials import Credentials
from decnn_tvm.runtime.exposure import (
    accept_all,
    accept_exposure,
    check_exposure,
    reached_from,
)
from decnn_tvm.runtime.fleet import Fleet
from decnn_tvm.runtime.own_process import OwnProcess
from decnn_tvm.runtime.policy import Policy, check_seconds
from decnn_tvm.runtime.remote_worker import RemoteWorker
from decnn_tvm.runtime.session import Session

logger = logging.getLogger(__name__)

TIMEOUT = 60.0
PROBE_TIMEOUT = 2.0
DEFAULT = Policy()


class Cluster:
    """Workers that run already.

    Use it in a ``with`` block, in the process that made it: one that was forked can't use it, and
    ends nothing of it either.

    Parameters
    ----------
    workers : sequence of RemoteWorker
        Connected workers, by rank.
    host : str
        Interface of the coordinator's data plane.
    timeout : float
        Seconds that any wait for a worker may take.
    credentials : Credentials, optional
        Who we are and which workers we trust: both planes are then authenticated and encrypted.
    insecure : bool
        Do without them beyond loopback.
    """

    def __init__(
        self,
        workers: Sequence[RemoteWorker],
        *,
        host: str,
        timeout: float,
        credentials: Credentials | None = None,
        insecure: bool = False,
    ) -> None:
        check_exposure(host, keys=credentials is not None, insecure=insecure)
        check_seconds("timeout", timeout)
        self._workers, self._host, self._timeout = list(workers), host, timeout
        self._credentials, self._insecure = credentials, insecure
        self._sessions: list[Session] = []
        self._process = OwnProcess()

    @staticmethod
    def connect(
        addresses: Sequence[str],
        *,
        host: str | None = None,
        timeout: float = TIMEOUT,
        keys: Path | str | None = None,
        insecure: bool = False,
    ) -> Cluster:
        """Connect to workers at ``host:port`` addresses.

        Parameters
        ----------
        addresses : sequence of str
            By rank.
        host : str, optional
            Address of this machine that the workers send to; by default the one from which they
            are reached, beyond loopback where one of them is.
        timeout : float
            Seconds that any wait for a worker may take.
        keys : path, optional
            The coordinator's folder of those that ``decnn keys`` made; both planes are then
            authenticated and encrypted. Needed for any address beyond loopback.
        insecure : bool
            Do without keys in a network that you trust.

        Raises
        ------
        ClusterError
            Naming the first address where no worker answers, or one with other keys.
        InputError
            An address beyond loopback with neither `keys` nor `insecure`, the keys are damaged, or
            `timeout` is no number of seconds above 0.
        """
        check_seconds("timeout", timeout)
        credentials = None if keys is None else Credentials.load(keys)
        workers: list[RemoteWorker] = []
        accept_all(addresses, keys=credentials is not None, insecure=insecure)
        try:
            for rank, address in enumerate(addresses):
                name = f"worker {rank} at {address}"
                workers.append(RemoteWorker(address, name, timeout, credentials))
                workers[-1].machine()
            host = host or reached_from(worker.own_host for worker in workers)
            accept_exposure(host, keys=credentials is not None, insecure=insecure)
        except BaseException:
            for worker in workers:
                worker.disconnect()
            raise
        return Cluster(
            workers, host=host, timeout=timeout, credentials=credentials, insecure=insecure
        )

    @property
    def workers(self) -> tuple[RemoteWorker, ...]:
        """The workers, by rank."""
        return tuple(self._workers)

    def deploy(
        self,
        package: Package | Path | str,
        *,
        shares: Sequence[int] | None = None,
        target: str | Mapping[str, str] | None = None,
        policy: Policy = DEFAULT,
    ) -> Session:
        """Send a package to the workers and start it there.

        Parameters
        ----------
        package : Package or path
            What ``compile`` wrote; its hashes are checked here and on the workers.
        shares : sequence of int, optional
            Channel groups per worker; by default those that the package was compiled for, or else
            as even as possible.
        target : str or mapping, optional
            Which of the package's targets to use, for all or by address; by default, for each
            worker, the one that fits and asks for the most.
        policy : Policy
            When a worker counts as lost, and what happens then.

        Raises
        ------
        PartitionError
            The shares do not fit. Of more workers than channel groups some stay idle.
        PackageError
            The package is damaged or does not fit a worker's machine or versions.
        MemoryShortage
            The workers' memory does not hold all channel groups.
        ClusterError
            A worker is gone or busy, or a session of this cluster is still open.
        """
        package = package if isinstance(package, Package) else Package(package)
        fleet = self.enlist(package, shares=shares, target=target, policy=policy, idle=True)
        try:
            session = Session(package.plan, fleet, self._timeout)
        except BaseException:
            fleet.close()
            raise
        self._sessions.append(session)
        return session

    def enlist(
        self,
        package: Package,
        *,
        shares: Sequence[int] | None = None,
        target: str | Mapping[str, str] | None = None,
        policy: Policy = DEFAULT,
        idle: bool = False,
    ) -> Fleet:
        """Send a package to the workers without starting it; `deploy` says what is what.

        With `idle`, some of more workers than channel groups are left alone; otherwise that is a
        `PartitionError`. Who calls this closes the fleet.
        """
        self._make_room()
        ranks = self._chosen(package.plan, policy, idle=idle)
        if shares is None:
            shares = package.shares_for(len(ranks))
        dealt = dict(zip(ranks, assign_groups(package.plan, len(ranks), shares), strict=True))
        assignment = [dealt.get(rank, ()) for rank in range(len(self._workers))]
        fleet = Fleet(
            self,
            package,
            self._host,
            policy,
            assignment,
            fixed=shares is not None,
            target=target,
        )
        try:
            fleet.enlist()
        except BaseException:
            # An interrupt must not leave half a deployment on the workers.
            fleet.close()
            raise
        return fleet

    def _chosen(self, plan: Plan, policy: Policy, *, idle: bool) -> list[int]:
        """Return whom to deploy to: with `idle` as many as there are groups, the living first."""
        ranks = list(range(len(self._workers)))
        count = min(plan.groups, len(ranks)) if idle else len(ranks)
        there = [rank for rank in ranks if not self.cause(rank)]
        if len(there) < count:
            for rank in ranks:
                if self.cause(rank) and policy.rejoin:
                    self.revive(rank)
            there = ranks
        if left := [self._workers[rank].name for rank in there[count:]]:
            logger.warning("more workers than %d %s: %s idle", plan.groups, plan.unit, left)
        return there[:count]

    def cause(self, rank: int) -> str:
        """Return why a worker is gone, empty where it is there."""
        return f"is gone. {self.explain([rank])}".strip() if self._workers[rank].gone() else ""

    def revive(self, rank: int) -> RemoteWorker:
        """Connect to a lost worker again.

        Raises
        ------
        ClusterError
            Nobody answers at its address.
        """
        lost = self._workers[rank]
        # One that is frozen takes a connection and says nothing.
        probe = self._dial(lost.address, lost.name, min(PROBE_TIMEOUT, self._timeout))
        try:
            probe.machine()
        finally:
            probe.disconnect()
        self._workers[rank] = self._dial(lost.address, lost.name, self._timeout)
        return self._workers[rank]

    def admit(self, address: str) -> int:
        """Connect to a worker and return its rank, the old one where the address is known."""
        for rank, worker in enumerate(self._workers):
            if worker.address == address:
                if self.cause(rank):
                    self.revive(rank)
                return rank
        rank = len(self._workers)
        self._workers.append(self._dial(address, f"worker {rank} at {address}", self._timeout))
        return rank

    def dismiss(self, rank: int) -> None:
        """Forget a worker; those of higher ranks move up, so that no session may know them."""
        self._workers.pop(rank).disconnect()

    def route(self, source: int, target: int, address: str) -> str:
        """Return the address by which one rank reaches another's data plane.

        The same for everybody, unless a tunnel or a proxy stands between them.
        """
        return address

    @property
    def host(self) -> str:
        """Interface of the coordinator's data plane."""
        return self._host

    @property
    def encrypted(self) -> bool:
        """Whether both planes run with keys."""
        return self._credentials is not None

    def _dial(self, address: str, name: str, timeout: float) -> RemoteWorker:
        """Connect to a worker as the others were connected to."""
        accept_all([address], keys=self.encrypted, insecure=self._insecure)
        return RemoteWorker(address, name, timeout, self._credentials)

    def explain(self, ranks: Sequence[int]) -> str:
        """Return what is known about workers that do not answer."""
        return "" if not ranks else "Look at its log, and start it again."

    def close(self) -> None:
        """Close all sessions and connections; nothing in a process that was forked."""
        if self._process.forked:
            return
        while self._sessions:
            self._sessions.pop().close()
        for worker in self._workers:
            worker.disconnect()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make_room(self) -> None:
        """Forget closed sessions and close failed ones; refuse where one is at work."""
        self._process.check()
        for session in list(self._sessions):
            if not session.usable:
                session.close()
                self._sessions.remove(session)
        if self._sessions:
            raise ClusterError(
                f"a session of {self._sessions[0].plan.model!r} is open on these workers. "
                "Close it first."
            )
