# SPDX-License-Identifier: Apache-2.0
"""Workers that a coordinator is connected to, and deployment to them."""

from __future__ import annotations

import json
import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from decnn_tvm.assignment import assign_groups
from decnn_tvm.errors import ClusterError
from decnn_tvm.package import MANIFEST, Package
from decnn_tvm.plan import Indices
from decnn_tvm.runtime.engine import Link
from decnn_tvm.runtime.machine import choose_target
from decnn_tvm.runtime.remote_worker import RemoteWorker
from decnn_tvm.runtime.session import Session
from decnn_tvm.runtime.transport import ZmqTransport
from decnn_tvm.transfers import HOST

logger = logging.getLogger(__name__)

TIMEOUT = 60.0


class Cluster:
    """Workers that run already.

    Use it in a ``with`` block.

    Parameters
    ----------
    workers : sequence of RemoteWorker
        Connected workers, by rank.
    host : str
        Interface of the coordinator's data plane.
    timeout : float
        Seconds that any wait for a worker may take.
    """

    def __init__(self, workers: Sequence[RemoteWorker], *, host: str, timeout: float) -> None:
        self._workers, self._host, self._timeout = list(workers), host, timeout
        self._sessions: list[Session] = []

    @staticmethod
    def connect(
        addresses: Sequence[str], *, host: str = "127.0.0.1", timeout: float = TIMEOUT
    ) -> Cluster:
        """Connect to workers at ``host:port`` addresses.

        Raises
        ------
        ClusterError
            Naming the first address where no worker answers.
        """
        workers: list[RemoteWorker] = []
        try:
            for rank, address in enumerate(addresses):
                workers.append(RemoteWorker(address, f"worker {rank} at {address}", timeout))
                workers[-1].machine()
        except BaseException:
            for worker in workers:
                worker.disconnect()
            raise
        return Cluster(workers, host=host, timeout=timeout)

    @property
    def workers(self) -> tuple[RemoteWorker, ...]:
        """The workers, by rank."""
        return tuple(self._workers)

    def deploy(
        self,
        package: Package | Path | str,
        *,
        shares: Sequence[int] | None = None,
        target: str | None = None,
    ) -> Session:
        """Send a package to the workers and start it there.

        Parameters
        ----------
        package : Package or path
            What ``compile`` wrote; its hashes are checked here and on the workers.
        shares : sequence of int, optional
            Channel groups per worker; as even as possible by default.
        target : str, optional
            Which of the package's targets to use; by default the first that fits each worker.

        Raises
        ------
        PartitionError
            There are more workers than channel groups, or the shares do not fit.
        PackageError
            The package is damaged or does not fit a worker's machine or versions.
        ClusterError
            A worker is gone or busy, or a session of this cluster is still open.
        """
        self._make_room()
        package = package if isinstance(package, Package) else Package(package)
        assignment = assign_groups(package.plan, len(self._workers), shares)
        manifest = package.manifest
        targets = [choose_target(manifest, w.machine(), w.name, target) for w in self._workers]
        pairs = list(zip(targets, assignment, strict=True))
        package.verify(sorted({n for t, groups in pairs for n in package.files_for(t, groups)}))
        transport = ZmqTransport(self._host)
        deployed = _Deployed(self, transport)
        try:
            session = self._start(package, assignment, targets, transport, deployed)
        except BaseException:
            # An interrupt must not leave half a deployment on the workers.
            deployed.close()
            raise
        self._sessions.append(session)
        return session

    def check(self) -> None:
        """Raise `ClusterError` where a worker is gone."""
        for rank, worker in enumerate(self._workers):
            if worker.gone():
                raise ClusterError(f"{worker.name} is gone. {self.explain([rank])}".strip())

    def explain(self, ranks: Sequence[int]) -> str:
        """Return what is known about workers that do not answer."""
        return "" if not ranks else "Look at its log, and start it again."

    def close(self) -> None:
        """Close all sessions and connections."""
        while self._sessions:
            self._sessions.pop().close()
        for worker in self._workers:
            worker.disconnect()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _make_room(self) -> None:
        """Forget closed sessions and close failed ones; refuse where one is at work."""
        for session in list(self._sessions):
            if not session.usable:
                session.close()
                self._sessions.remove(session)
        if self._sessions:
            raise ClusterError(
                f"a session of {self._sessions[0].plan.model!r} is open on these workers. "
                "Close it first."
            )

    def _start(
        self,
        package: Package,
        assignment: Sequence[Indices],
        targets: Sequence[str],
        transport: ZmqTransport,
        deployed: _Deployed,
    ) -> Session:
        ports = self._each(lambda rank, worker: worker.call("open"))
        addresses = {
            r: f"{w.host}:{port}"
            for r, (w, port) in enumerate(zip(self._workers, ports, strict=True))
        }
        request = {
            "assignment": assignment,
            "addresses": {**addresses, HOST: f"{self._host}:{transport.port}"},
            "cluster": secrets.token_hex(16),
            "epoch": 0,
        }

        cancelled = threading.Event()

        def start(rank: int, worker: RemoteWorker) -> None:
            for name in [MANIFEST, *package.files_for(targets[rank], assignment[rank])]:
                worker.upload(package.path, name, cancelled)
            own = {**request, "rank": rank, "target": targets[rank]}
            worker.call("start", json.dumps(own))

        self._each(start, cancelled)
        transport.connect(addresses)
        link = Link(transport, bytes.fromhex(str(request["cluster"])), 0, HOST)
        return Session(package.plan, assignment, link, deployed, self._timeout)

    def _each(
        self,
        action: Callable[[int, RemoteWorker], Any],
        cancelled: threading.Event | None = None,
    ) -> list[Any]:
        """Do something with all workers at once; a worker that is gone is named with its cause.

        Where one fails, or on an interrupt, `cancelled` tells the others to end early.
        """
        try:
            with ThreadPoolExecutor(len(self._workers)) as pool:
                try:
                    return list(pool.map(action, range(len(self._workers)), self._workers))
                except BaseException:
                    if cancelled is not None:
                        cancelled.set()
                    raise
        except ClusterError:
            self.check()
            raise


class _Deployed:
    """The `decnn_tvm.runtime.session.Devices` of one deployment."""

    def __init__(self, cluster: Cluster, transport: ZmqTransport) -> None:
        self._cluster, self._transport = cluster, transport
        self.names = [worker.name for worker in cluster.workers]

    def check(self) -> None:
        """Raise `ClusterError` where a worker is gone."""
        self._cluster.check()

    def explain(self, ranks: Sequence[int]) -> str:
        """Return what is known about workers that do not answer."""
        return self._cluster.explain(ranks)

    def status(self, rank: int) -> dict[str, Any]:
        """Return a worker's counters."""
        status: dict[str, Any] = self._cluster.workers[rank].call("status")
        return status

    def close(self) -> None:
        """End the deployment on every worker that still answers, all at once."""
        workers = self._cluster.workers
        try:
            with ThreadPoolExecutor(len(workers)) as pool:
                list(pool.map(_end_session, workers))
        finally:
            self._transport.close()


def _end_session(worker: RemoteWorker) -> None:
    if worker.gone():
        return
    try:
        worker.end_session()
    except ClusterError as error:
        logger.warning("a session was not closed in order: %s", error)
