# SPDX-License-Identifier: Apache-2.0
"""The coordinator's end of the data plane, and how workers are brought into an epoch."""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from decnn_tvm.errors import ClusterError, ClusterTimeout
from decnn_tvm.package import Package
from decnn_tvm.plan import Indices
from decnn_tvm.runtime.calls import call_all
from decnn_tvm.runtime.devices import Home
from decnn_tvm.runtime.engine import Link
from decnn_tvm.runtime.heartbeat import Watch
from decnn_tvm.runtime.mate import Mate
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.runtime.route import largest_messages
from decnn_tvm.runtime.steps import largest_payload
from decnn_tvm.runtime.transport import ZmqTransport
from decnn_tvm.runtime.wire import Header
from decnn_tvm.transfers import HOST

logger = logging.getLogger(__name__)

STAGE_SHARE = 0.75
"""Part of the time for a call that a stage under way may take before a new epoch begins; the rest
is for loading. A worker that falls silent meanwhile is given up at once."""
Failures = Mapping[int, Exception]
"""What went wrong, by rank."""


class Epochs:
    """Begins one epoch after the other.

    Parameters
    ----------
    home : Home
        The cluster.
    package : Package
        What the workers run.
    host : str
        Interface of the coordinator's data plane.
    policy : Policy
        How often to beat, and when a worker counts as silent.

    Attributes
    ----------
    number : int
        The present epoch; -1 before the first.
    formed : bool
        Whether one has begun on all workers.
    cluster : bytes
        The deployment's id.
    watch : Watch
        Sees what comes from them.
    """

    def __init__(self, home: Home, package: Package, host: str, policy: Policy) -> None:
        self.number, self.formed = -1, False
        self.watch = Watch(policy)
        self._home, self._package, self._host = home, package, host
        self.cluster = secrets.token_bytes(16)
        self._transport = ZmqTransport(
            host,
            self.watch,
            cluster=self.cluster,
            max_payload=largest_payload(package.plan),
            encrypt=home.encrypted,
        )

    def link(self) -> Link:
        """Return the coordinator's link of the present epoch."""
        return Link.of(self._transport, self._header())

    def close(self) -> None:
        """Close the data plane."""
        self._transport.close()

    def begin(
        self,
        mates: Mapping[int, Mate],
        wanted: Sequence[Indices],
        live: Sequence[int],
        next_sample: int,
    ) -> Failures:
        """Start an epoch on every worker, which has what it needs; return what went wrong.

        Parameters
        ----------
        mates : mapping of rank to Mate
            The workers.
        wanted : sequence of tuple of int
            Channel groups by rank.
        live, next_sample
            Samples that will be sent again; the first that has not been submitted.
        """
        self.number += 1
        planes = {rank: mate.address for rank, mate in mates.items()}
        own = {rank: self._home.route(HOST, rank, a) for rank, a in planes.items()}
        sizes = largest_messages(self._package.plan, wanted, HOST)
        self._transport.begin(self._header(), own, sizes)
        planes[HOST] = f"{self._host}:{self._transport.locator}"
        common = {
            "assignment": wanted,
            "cluster": self.cluster.hex(),
            "package": self._package.digest,
            "epoch": self.number,
            "live": list(live),
            "next_sample": next_sample,
        }

        def start(rank: int, _: threading.Event) -> None:
            peers = {peer: address for peer, address in planes.items() if peer != rank}
            request = {
                **common,
                "rank": rank,
                "target": mates[rank].target,
                "patience": STAGE_SHARE * mates[rank].worker.timeout,
                "addresses": {p: self._home.route(rank, p, a) for p, a in peers.items()},
            }
            mates[rank].worker.call("start", json.dumps(request))

        errors = self._call(mates, start)
        self.formed = self.formed or not errors
        return errors

    def supply(self, mates: Mapping[int, Mate], groups: Mapping[int, Indices]) -> Failures:
        """Send workers what they lack to own these groups; return what went wrong."""

        def supply(rank: int, cancelled: threading.Event) -> None:
            start, mate = time.monotonic(), mates[rank]
            if sent := mate.supply(self._package, groups[rank], cancelled):
                seconds = time.monotonic() - start
                logger.info("%s: sent %.1f MB in %.2f s", mate.worker.name, sent / 1e6, seconds)

        return self._call(mates, supply)

    def _call(
        self, mates: Mapping[int, Mate], action: Callable[[int, threading.Event], None]
    ) -> Failures:
        hung_up: dict[int, str] = {}

        def look(ranks: Sequence[int]) -> None:
            """End the calls to workers that have died or fallen silent."""
            silent = self.watch.silent() if self.formed else ()
            for rank in ranks:
                worker = mates[rank].worker
                if self._home.cause(rank):
                    worker.disconnect()
                elif rank in silent:
                    hung_up[rank] = f"{worker.name} is silent"
                    worker.disconnect()

        errors = call_all(list(mates), action, look, all_or_none=not self.formed).errors
        return {
            rank: ClusterTimeout(hung_up[rank])
            if rank in hung_up and type(error) is ClusterError
            else error
            for rank, error in errors.items()
        }

    def _header(self) -> Header:
        return Header(
            cluster=self.cluster,
            epoch=self.number,
            sample=0,
            movement=0,
            source=HOST,
            target=HOST,
        )
