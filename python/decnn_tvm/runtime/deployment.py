# SPDX-License-Identifier: Apache-2.0
"""A package at work in a worker: its folder, its library, its network end, its compute thread.

`start` begins an epoch: the first one, or a later one in which this device may own other channel
groups. What it has already is kept: files, network end, counters, and the library with its packed
weights where its groups stay the same.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from decnn_tvm.errors import ClusterError, PackageError
from decnn_tvm.manifest import MANIFEST
from decnn_tvm.package import Package
from decnn_tvm.runtime.engine import Counters, Engine, Link, device_status
from decnn_tvm.runtime.executor import Executor
from decnn_tvm.runtime.heartbeat import Watch
from decnn_tvm.runtime.library import StageLibrary
from decnn_tvm.runtime.machine import choose_target, memory, reset_peak, this_machine
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.runtime.route import largest_messages
from decnn_tvm.runtime.share import Share
from decnn_tvm.runtime.stage_timing import time_stages
from decnn_tvm.runtime.start_request import StartRequest
from decnn_tvm.runtime.transport import OPEN, Guard, ZmqTransport
from decnn_tvm.runtime.uploads import Uploads
from decnn_tvm.runtime.wire import Header
from decnn_tvm.transfers import HOST

logger = logging.getLogger(__name__)

MAX_TIMING = 600.0
"""Seconds that timing the stages may take."""
REAP_TIMEOUT = 60.0
"""Seconds between two reports of a stage that does not end after its session was closed."""


class Deployment:
    """One package in one worker.

    Parameters
    ----------
    folder : Path
        Where its files go; made here, removed by `close`.
    host : str
        Interface of the data plane.
    idle_bytes : int
        Resident bytes of the idle worker.
    policy : Policy
        How often to beat, and when a peer counts as silent.
    limit : int, optional
        Bytes that the whole process may take.
    guard : Guard
        What the data plane takes.

    Attributes
    ----------
    ended : Event
        Set once it is closed, and has freed all that it held.
    """

    def __init__(
        self,
        folder: Path,
        host: str,
        idle_bytes: int,
        policy: Policy | None = None,
        limit: int | None = None,
        guard: Guard = OPEN,
    ) -> None:
        self._folder = folder
        self._uploads = Uploads(folder)
        self._changes = threading.Lock()
        self._closed = threading.Event()
        self.ended = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._engine: Engine | None = None
        self._request: StartRequest | None = None
        self._model = ""
        self._share = Share(limit)
        self._counters = Counters()
        self._epoch = -1
        self._idle_bytes = idle_bytes
        reset_peak()
        folder.mkdir(mode=0o700)
        self._policy = Policy() if policy is None else policy
        self._watch = Watch(self._policy, self._progress)
        self.transport = ZmqTransport(
            host,
            self._watch,
            cluster=guard.cluster,
            max_payload=guard.max_payload,
            encrypt=guard.encrypt,
        )

    def upload(self, name: str, offset: int, data: bytes) -> None:
        """Write a piece of a file; see `Uploads.take`."""
        with self._changing():
            self._uploads.take(name, offset, data)
            self._share.verified.discard(name)

    def start(self, request: StartRequest) -> None:
        """Begin an epoch: check and load what it needs and start the compute thread.

        Raises
        ------
        PackageError
            A file is missing or damaged, or does not fit this machine.
        MemoryShortage
            The channel groups take more than this worker may have.
        ClusterError
            The epoch is not a later one, a stage of the one before does not end, or the session
            was closed meanwhile.
        """
        with self._changing():
            self._start(request)

    def _start(self, request: StartRequest) -> None:
        if request.epoch <= self._epoch:
            raise ClusterError(
                f"epoch {request.epoch} after epoch {self._epoch}; expected a later one. "
                "Open a new session."
            )
        self._stop_engine(request.patience)
        self._refuse_closed()
        package = Package(self._folder)
        if package.digest != request.package:
            raise PackageError(
                f"the {MANIFEST} here has the SHA-256 {package.digest[:12]}, the package that is "
                f"to start has {request.package[:12]}. Deploy the package again."
            )
        choose_target(package.manifest, this_machine(), "this machine", request.target)
        groups = request.assignment[request.rank]
        header = Header(
            cluster=bytes.fromhex(request.cluster),
            epoch=request.epoch,
            sample=0,
            movement=0,
            source=request.rank,
            target=HOST,
        )
        self._epoch = request.epoch
        # Before the weights are loaded, which takes a while, so that peers hear this device.
        self.transport.begin(
            header,
            {rank: a for rank, a in request.addresses.items() if rank != request.rank},
            largest_messages(package.plan, request.assignment, request.rank),
        )
        self._request, self._model = request, package.plan.model
        self._share.load(package, request.target, groups)
        self._refuse_closed()
        if self._share.library is not None:
            self._start_engine(
                package, request, self._share.library, Link.of(self.transport, header)
            )

    def status(self) -> dict[str, Any]:
        """Return what this device did and takes, as JSON data."""
        if self._epoch < 0:
            raise ClusterError("this deployment has not been started.")
        return {
            **device_status(self._counters, self._share.library, self._engine),
            "peak_bytes": max(0, memory().peak - self._idle_bytes),
            "processor_seconds": time.process_time(),
        }

    def time_stages(self, seconds: float) -> list[dict[str, Any]]:
        """Return what `decnn_tvm.runtime.stage_timing.time_stages` measures here."""
        if not 0 < seconds <= MAX_TIMING:
            raise ClusterError(f"stages: {seconds} s of timing; expected 0 to {MAX_TIMING:g}.")
        with self._changing():
            engine, library, request = self._engine, self._share.library, self._request
            if engine is None or library is None or request is None:
                raise ClusterError("this worker owns no channel groups: it has no stages to time.")
            groups = request.assignment[request.rank]
            return time_stages(library, engine.executor.plan, groups, seconds)

    @property
    def orphaned(self) -> bool:
        """Whether the coordinator has been silent for too long."""
        return self._watch.unheard(HOST) > self._policy.orphan

    def observe(self) -> dict[str, Any]:
        """Return what an `Observation` says of a session; another thread may be loading it."""
        traffic, engine, request = self.transport.traffic, self._engine, self._request
        seen: dict[str, Any] = {
            "state": "loading",
            "sent_bytes": dict(traffic.sent),
            "received_bytes": dict(traffic.received),
            "refused_messages": traffic.refused,
        }
        if request is None or (engine is None and request.assignment[request.rank]):
            return seen
        counters, seconds, library = (
            self._counters,
            dict(self._counters.seconds),
            self._share.library,
        )
        return seen | {
            "state": "failed" if engine is not None and engine.failure else "running",
            "model": self._model,
            "rank": request.rank,
            "groups": request.assignment[request.rank],
            "samples": counters.samples,
            "open_samples": 0 if engine is None else engine.executor.open_samples,
            "compute_seconds": counters.compute_seconds,
            "wait_seconds": counters.wait_seconds,
            "transfer_seconds": seconds.get("send", 0.0) + seconds.get("receive", 0.0),
            "weight_bytes": 0 if library is None else library.weight_bytes,
            "failure": (engine.failure or "") if engine is not None else "",
        }

    def close(self, timeout: float) -> bool:
        """Stop, free and remove everything; return whether that was done in time.

        Otherwise a thread of its own does it as soon as what still runs has come to its end.
        """
        self._closed.set()
        if self._clear(timeout):
            return True
        logger.error("a stage, or loading, did not end within %g s: it is waited for", timeout)
        threading.Thread(target=self._reap, name="decnn-reaper", daemon=True).start()
        return False

    def _reap(self) -> None:
        while not self._clear(REAP_TIMEOUT):
            logger.error("a stage of a closed session still runs; if it hangs, restart this worker")

    def _clear(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        self._stop()
        if not self._changes.acquire(timeout=timeout):
            return False
        try:
            # A thread that still runs would send on closed sockets: its transport stays.
            if not self._join(max(0.0, deadline - time.monotonic())):
                return False
            self.transport.close()
            self._engine = self._thread = None
            self._share.free()
            shutil.rmtree(self._folder, ignore_errors=True)
            self.ended.set()
            return True
        finally:
            self._changes.release()

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Keep `close`, which another thread may call, from what is under way."""
        with self._changes:
            self._refuse_closed()
            yield

    def _refuse_closed(self) -> None:
        if self._closed.is_set():
            raise ClusterError("the session has been closed. Open a new one.")

    def _progress(self) -> tuple[int, float]:
        return self._counters.samples, self._counters.compute_seconds

    def _start_engine(
        self, package: Package, request: StartRequest, library: StageLibrary, link: Link
    ) -> None:
        executor = Executor(
            package.plan,
            request.assignment,
            request.rank,
            live=request.live,
            next_sample=request.next_sample,
        )
        self._engine = Engine(executor, library, link, self._counters)
        self._stopping = threading.Event()
        self._thread = threading.Thread(
            target=self._engine.loop, args=(self._stopping,), name="decnn-compute", daemon=True
        )
        self._thread.start()

    def _stop_engine(self, timeout: float) -> None:
        if not self._join(timeout):
            raise ClusterError(f"a stage did not end within {timeout:g} s.")
        self._engine = self._thread = None

    def _stop(self) -> None:
        self._stopping.set()
        self.transport.wake()

    def _join(self, timeout: float) -> bool:
        self._stop()
        if self._thread is not None:
            self._thread.join(timeout)
        return self._thread is None or not self._thread.is_alive()
