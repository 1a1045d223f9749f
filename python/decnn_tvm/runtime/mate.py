# SPDX-License-Identifier: Apache-2.0
"""One worker of a deployment: its session, and the files of the package that it has."""

from __future__ import annotations

import dataclasses
import json
import logging
import threading
from dataclasses import dataclass, field

from decnn_tvm.errors import ClusterError
from decnn_tvm.manifest import MANIFEST
from decnn_tvm.package import Package, weights_file
from decnn_tvm.plan import Indices
from decnn_tvm.runtime.machine import choose_target
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.runtime.remote_worker import CHUNK, RemoteWorker, as_text
from decnn_tvm.runtime.steps import largest_payload

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Mate:
    """A worker with an open session.

    Attributes
    ----------
    worker : RemoteWorker
        Its control plane.
    target : str
        The package's target that fits it.
    address : str
        ``host:port`` of its data plane, with its key where there are keys.
    memory : int
        Bytes that a share may take there.
    files : set of str
        Files of the package that it has.
    refused : int
        The least number of channel groups that it has refused for want of memory.
    """

    worker: RemoteWorker
    target: str
    address: str
    memory: int
    files: set[str] = field(default_factory=set)
    refused: int = 1 << 30

    @staticmethod
    def enlist(
        worker: RemoteWorker, package: Package, target: str | None, policy: Policy, cluster: bytes
    ) -> Mate:
        """Open a session on a worker that the package fits."""
        chosen = choose_target(package.manifest, worker.machine(), worker.name, target)
        memory = worker.capacity()
        patience = json.dumps(dataclasses.asdict(policy))
        limit = largest_payload(package.plan)
        locator = worker.ask("open", as_text, patience, cluster.hex(), limit)
        return Mate(worker=worker, target=chosen, address=f"{worker.host}:{locator}", memory=memory)

    def supply(self, package: Package, groups: Indices, cancelled: threading.Event) -> int:
        """Send what it lacks to own `groups`; return how many bytes that was.

        Raises
        ------
        PackageError
            The package's files have changed.
        """
        names = [n for n in files_of(package, self.target, groups) if n not in self.files]
        sent = 0
        for name in names:
            sent += self.worker.upload(name, package.pieces(name, CHUNK), cancelled)
            self.files.add(name)
        return sent

    def stored(self, groups: int) -> frozenset[int]:
        """Return the channel groups whose weights it has on disk."""
        return frozenset(g for g in range(groups) if weights_file(g) in self.files)

    def end(self) -> None:
        """End the session, if the worker still answers."""
        if self.worker.gone():
            return
        try:
            self.worker.end_session()
        except ClusterError as error:
            logger.warning("a session was not closed in order: %s", error)


def files_of(package: Package, target: str, groups: Indices) -> list[str]:
    """Return what a device with `groups` gets: every library of its target, and its weights.

    Libraries hold no weights and are small, so that a change of shares needs none to be sent.
    """
    libraries = package.manifest.targets[target].libraries
    weights = [weights_file(None), *(weights_file(group) for group in groups)]
    files = [*libraries.values(), *weights]
    return [MANIFEST, *(name for name in files if name in package.manifest.files)]
