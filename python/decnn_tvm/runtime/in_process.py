# SPDX-License-Identifier: Apache-2.0
"""All devices of a session in this process and thread: deterministic, and quick to set up.

Messages are encoded, checked and decoded as on a network. A step of the devices runs whenever the
session waits for a result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from decnn_tvm.assignment import assign_groups
from decnn_tvm.errors import ClusterError
from decnn_tvm.package import Package
from decnn_tvm.plan import Indices, Plan
from decnn_tvm.runtime.engine import Engine, Link
from decnn_tvm.runtime.executor import Executor, StageRunner
from decnn_tvm.runtime.library import StageLibrary
from decnn_tvm.runtime.machine import choose_target, this_machine
from decnn_tvm.runtime.session import Session
from decnn_tvm.runtime.transport import MemoryNetwork
from decnn_tvm.runtime.weights import DeviceWeights
from decnn_tvm.runtime.wire import Buffer, Message, WireError
from decnn_tvm.transfers import HOST

_CLUSTER = bytes(16)


class InProcessCluster:
    """`count` devices in this process, with the interface of `Cluster`."""

    def __init__(self, count: int) -> None:
        if count < 1:
            raise ClusterError(f"{count} devices: expected at least 1.")
        self._count = count
        self._sessions: list[Session] = []

    def deploy(
        self,
        package: Package | Path | str,
        *,
        shares: Sequence[int] | None = None,
        target: str | None = None,
    ) -> Session:
        """Load a package on every device; parameters and errors are those of `Cluster.deploy`."""
        package = package if isinstance(package, Package) else Package(package)
        shares = package.shares_for(self._count) if shares is None else shares
        assignment = assign_groups(package.plan, self._count, shares)
        chosen = choose_target(package.manifest, this_machine(), "this process", target)

        def load(rank: int) -> StageRunner:
            groups = assignment[rank]
            package.verify(package.files_for(chosen, groups))
            path = package.file(package.library(chosen, len(groups)))
            return StageLibrary(path, package.plan, DeviceWeights(package, groups), groups)

        return self.start(package.plan, load, shares=shares)

    def start(
        self,
        plan: Plan,
        runner: Callable[[int], StageRunner],
        *,
        shares: Sequence[int] | None = None,
    ) -> Session:
        """Start a plan whose stages ``runner(rank)`` runs."""
        assignment = assign_groups(plan, self._count, shares)
        network = MemoryNetwork([HOST, *range(self._count)])
        engines = [
            Engine(
                Executor(plan, assignment, rank),
                runner(rank),
                Link(network.transport(rank), _CLUSTER, 0, rank),
            )
            for rank in range(self._count)
        ]
        session = Session(plan, _Local(network, engines, assignment), timeout=60.0)
        self._sessions.append(session)
        return session

    def close(self) -> None:
        """Close all sessions."""
        for session in self._sessions:
            session.close()
        self._sessions.clear()

    def __enter__(self) -> InProcessCluster:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _SteppingTransport:
    """The coordinator's transport: while it waits, the devices take steps."""

    def __init__(self, network: MemoryNetwork, engines: Sequence[Engine]) -> None:
        self._own = network.transport(HOST)
        self._engines = engines

    def send(self, target: int, frames: Iterable[Buffer], order: int = 0) -> None:
        """Send a message to a device."""
        self._own.send(target, frames)

    def receive(self, timeout: float, enough: int = 1) -> Message | WireError | None:
        """Return the next message; step the devices until there is one."""
        while (message := self._own.receive(0.0)) is None:
            if not any([engine.step(0.0) for engine in self._engines]):
                raise ClusterError(
                    "no device can go on and the result is not there: the plan lacks a movement. "
                    "Compile the package again."
                )
        return message

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


class _Local:
    """The `decnn_tvm.runtime.devices.Devices` of an `InProcessCluster`."""

    def __init__(
        self, network: MemoryNetwork, engines: Sequence[Engine], assignment: Sequence[Indices]
    ) -> None:
        self._network, self._engines, self.assignment = network, engines, assignment
        self.names = [f"device {rank}" for rank in range(len(engines))]

    def look(self) -> str:
        """Return nothing: these devices live as long as this process."""
        return ""

    def delivered(self) -> None:
        """Do nothing: these devices have their shares for good."""

    def wish(self) -> str:
        """Return nothing: these devices never change."""
        return ""

    def failed(self, rank: int, text: str) -> None:
        """Raise: what stops one device here stops them all."""
        raise ClusterError(f"{self.names[rank]} failed: {text}")

    def form(self, live: Sequence[int], next_sample: int) -> Link:
        """Return the coordinator's link; there is one epoch alone."""
        if next_sample:
            raise ClusterError("devices in this process are never formed anew. Deploy again.")
        return Link(_SteppingTransport(self._network, self._engines), _CLUSTER, 0, HOST)

    def add(self, address: str) -> None:
        """Refuse: there are no workers here."""
        raise ClusterError(f"{address}: devices in this process take in no worker.")

    def explain(self, ranks: Sequence[int]) -> str:
        """Return nothing: an error surfaces where it is raised."""
        return ""

    def status(self, rank: int) -> dict[str, Any]:
        """Return a device's counters; memory is that of the whole process and not told apart."""
        return self._engines[rank].status()

    def clock_offset(self, rank: int) -> float:
        """Return 0: there is one clock."""
        return 0.0

    def close(self) -> None:
        """Drop the devices."""
        self._engines = ()
