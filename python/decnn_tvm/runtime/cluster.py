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
from decnn_tvm.runtime.credentials import Credentials
from decnn_tvm.runtime.engine import Link
from decnn_tvm.runtime.exposure import accept_all, accept_exposure, check_exposure, is_loopback
from decnn_tvm.runtime.machine import choose_target
from decnn_tvm.runtime.remote_worker import RemoteWorker
from decnn_tvm.runtime.session import Session
from decnn_tvm.runtime.steps import largest_payload
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
        self._workers, self._host, self._timeout = list(workers), host, timeout
        self._credentials = credentials
        self._sessions: list[Session] = []

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
            An address beyond loopback with neither `keys` nor `insecure`, or the keys are damaged.
        """
        credentials = None if keys is None else Credentials.load(keys)
        workers: list[RemoteWorker] = []
        accept_all(addresses, keys=credentials is not None, insecure=insecure)
        try:
            for rank, address in enumerate(addresses):
                name = f"worker {rank} at {address}"
                workers.append(RemoteWorker(address, name, timeout, credentials))
                workers[-1].machine()
            beyond = (w.own_host for w in workers if not is_loopback(w.own_host))
            host = host or next(beyond, "127.0.0.1")
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
        cluster = secrets.token_bytes(16)
        transport = ZmqTransport(
            self._host,
            cluster=cluster,
            max_payload=largest_payload(package.plan),
            encrypt=self._credentials is not None,
        )
        deployed = _Deployed(self, transport)
        try:
            session = self._start(package, assignment, targets, transport, deployed, cluster)
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
        cluster: bytes,
    ) -> Session:
        limit = largest_payload(package.plan)
        opened = self._each(lambda rank, worker: worker.call("open", cluster.hex(), limit))
        addresses = {
            r: f"{w.host}:{locator}"
            for r, (w, locator) in enumerate(zip(self._workers, opened, strict=True))
        }
        request = {
            "assignment": assignment,
            "addresses": {**addresses, HOST: f"{self._host}:{transport.locator}"},
            "cluster": cluster.hex(),
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
        link = Link(transport, cluster, 0, HOST)
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
