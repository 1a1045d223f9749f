# SPDX-License-Identifier: Apache-2.0
"""Opening sessions on workers: on all of them, on one that is added, on one that has come back."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from decnn_tvm.errors import ClusterError
from decnn_tvm.package import Package
from decnn_tvm.runtime.calls import call_all, raise_first
from decnn_tvm.runtime.devices import Home
from decnn_tvm.runtime.epochs import Epochs, Failures
from decnn_tvm.runtime.mate import Mate, files_of
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.runtime.remote_worker import RemoteWorker
from decnn_tvm.runtime.roster import Roster


class Enlistment:
    """Opens sessions for one deployment.

    Parameters
    ----------
    home : Home
        The cluster.
    package : Package
        What the workers run.
    policy : Policy
        How often they beat, and when a peer counts as silent there.
    target : str or mapping, optional
        Which of the package's targets to use, for all workers or by address.
    roster : Roster
        Who takes part.
    epochs : Epochs
        Sends files.
    """

    def __init__(
        self,
        home: Home,
        package: Package,
        policy: Policy,
        target: str | Mapping[str, str] | None,
        roster: Roster,
        epochs: Epochs,
    ) -> None:
        self._home, self._package, self._policy = home, package, policy
        self._target, self._roster, self._epochs = target, roster, epochs
        self._first = len(home.workers)

    def all(self, replicas: int) -> None:
        """Open a session on every worker with groups and send what it needs, and copies."""
        owned, ranks = self._roster.owned, range(len(self._home.workers))
        workers = {rank: self._home.workers[rank] for rank in ranks if owned(rank)}

        def open_session(rank: int, _: threading.Event) -> Mate:
            return self._open(workers[rank])

        answers = call_all(list(workers), open_session, lambda ranks: None, all_or_none=True)
        # Those that did open one have to end it again, also where others failed.
        self._roster.mates.update(answers.results)
        self.raise_first(answers.errors)
        for rank, mate in self._roster.mates.items():
            self._package.library(mate.target, len(self._roster.owned(rank)))
        self._roster.assignment = self._roster.decide(self._names())
        stored = self._roster.stored(replicas)
        files = {
            name
            for rank, mate in self._roster.mates.items()
            for name in files_of(self._package, mate.target, stored[rank])
        }
        self._package.verify(sorted(files & {*self._package.manifest.files}))
        self.raise_first(self._epochs.supply(self._roster.mates, stored))

    def admit(self, address: str) -> tuple[int, Mate]:
        """Connect to a worker that is added; return its rank, and it with what it needs."""
        known = len(self._home.workers)
        rank = self._home.admit(address)
        if rank in self._roster.mates:
            raise ClusterError(f"{self._names()[rank]} takes part already.")
        try:
            return rank, self.newcomer(rank, threading.Event())
        except BaseException:
            if rank == known:
                self._home.dismiss(rank)
            raise

    def dismiss_lost(self) -> None:
        """Have the cluster forget who was added and is lost; in the end, since ranks change."""
        for rank in reversed(range(self._first, len(self._home.workers))):
            if rank not in self._roster.mates:
                self._home.dismiss(rank)

    def newcomer(self, rank: int, cancelled: threading.Event) -> Mate:
        """Open a session on a worker and send what it is going to need."""
        mate = self._open(self._home.workers[rank])
        try:
            mate.supply(self._package, self._roster.prospects(rank, mate), cancelled)
        except BaseException:
            if not cancelled.is_set():
                mate.end()
            raise
        return mate

    def again(self, rank: int, cancelled: threading.Event) -> Mate:
        """Connect to a lost worker again and take it in as a newcomer; runs beside the session."""
        worker = self._home.revive(rank)
        try:
            return self.newcomer(rank, cancelled)
        except BaseException:
            worker.disconnect()
            raise

    def raise_first(self, failures: Failures) -> None:
        """Raise an error of the first deployment, with the cause where a worker has gone."""
        home, names = self._home, self._names()
        raise_first(failures, lambda rank: (w := home.cause(rank)) and f"{names[rank]} {w}")

    def _open(self, worker: RemoteWorker) -> Mate:
        wanted = self._target
        target = wanted.get(worker.address) if isinstance(wanted, Mapping) else wanted
        return Mate.enlist(worker, self._package, target, self._policy, self._epochs.cluster)

    def _names(self) -> list[str]:
        return [worker.name for worker in self._home.workers]
