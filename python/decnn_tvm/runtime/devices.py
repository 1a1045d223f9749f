# SPDX-License-Identifier: Apache-2.0
"""What a session needs from the devices behind it, and these from the cluster they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from decnn_tvm.plan import Indices
from decnn_tvm.runtime.engine import Link
from decnn_tvm.runtime.remote_worker import RemoteWorker


class Devices(Protocol):
    """Devices by rank; one that is lost keeps its rank."""

    @property
    def names(self) -> Sequence[str]:
        """What messages call the devices, by rank."""

    @property
    def assignment(self) -> Sequence[Indices]:
        """Channel groups by rank; none for a device that is lost or a spare."""

    def look(self) -> str:
        """Return why the devices need a new epoch, empty where they don't.

        Cheap, and called often. Raises `ClusterError` where nothing can help.
        """

    def delivered(self) -> None:
        """Note that a sample has its result."""

    def wish(self) -> str:
        """Return why a new epoch would do good, empty where it would not; none is needed.

        It stands until the next `form`, which does what was wished for.
        """

    def failed(self, rank: int, text: str) -> None:
        """Take in what has stopped a device; raise `ClusterError` where nothing can help."""

    def form(self, live: Sequence[int], next_sample: int) -> Link:
        """Bring the devices into a new epoch; the samples `live` will be sent again."""

    def add(self, address: str) -> None:
        """Prepare another device for the next `form`."""

    def explain(self, ranks: Sequence[int]) -> str:
        """Return what is known about devices that do not answer."""

    def status(self, rank: int) -> dict[str, Any]:
        """Return a device's counters; of one that is lost, that it did nothing."""

    def clock_offset(self, rank: int) -> float:
        """Return the seconds to add to a device's monotonic clock to have this process's."""

    def close(self) -> None:
        """End the deployment on every device and free what it took."""


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

    def dismiss(self, rank: int) -> None:
        """Forget a worker; those of higher ranks move up, so that no session may know them."""

    def route(self, source: int, target: int, address: str) -> str:
        """Return the address by which one rank reaches another's data plane."""
