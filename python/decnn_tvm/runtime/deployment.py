# SPDX-License-Identifier: Apache-2.0
"""A package at work in a worker: its folder, its library, its network end, its compute thread.

`start` begins an epoch: the first one, or a later one in which this device may own other channel
groups. What it has already is kept: files, network end, counters, and the library with its packed
weights where its groups stay the same.
"""

from __future__ import annotations

import logging
import re
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decnn_tvm.errors import ClusterError, MemoryShortage, PackageError
from decnn_tvm.package import Package
from decnn_tvm.plan import Indices
from decnn_tvm.runtime.engine import Counters, Engine, Link, device_status
from decnn_tvm.runtime.executor import Executor
from decnn_tvm.runtime.heartbeat import Watch
from decnn_tvm.runtime.library import StageLibrary, empty_pool
from decnn_tvm.runtime.machine import (
    choose_target,
    freed_memory_returned,
    memory,
    reset_peak,
    this_machine,
    trim,
)
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.runtime.route import largest_messages
from decnn_tvm.runtime.stage_timing import time_stages
from decnn_tvm.runtime.start_request import StartRequest
from decnn_tvm.runtime.transport import ZmqTransport
from decnn_tvm.runtime.weights import DeviceWeights
from decnn_tvm.runtime.wire import MAX_PAYLOAD, Header
from decnn_tvm.transfers import HOST

logger = logging.getLogger(__name__)

MAX_UPLOAD = 4 << 30
"""Bytes of all files of a package on one worker."""
MAX_FILES = 4096
MAX_NAME = 200
MAX_TIMING = 600.0
"""Seconds that timing the stages may take."""
STAGE_TIMEOUT = 5.0
"""Seconds that a stage under way has to end before a new epoch."""
_NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/){0,3}[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What a deployment's data plane takes.

    Attributes
    ----------
    cluster : bytes, optional
        The deployment whose messages are taken; any where it is None.
    max_payload : int
        Bytes of the largest message.
    encrypt : bool
        Whether both ends must know each other's keys.
    """

    cluster: bytes | None = None
    max_payload: int = MAX_PAYLOAD
    encrypt: bool = False


OPEN = Guard()
"""Takes messages of any deployment from anybody."""


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
        self._received = 0
        self._files: set[str] = set()
        self._verified: set[str] = set()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._engine: Engine | None = None
        self._request: StartRequest | None = None
        self._model = ""
        self._library: StageLibrary | None = None
        self._loaded: tuple[str, Indices] | None = None
        self._counters = Counters()
        self._epoch = -1
        self._idle_bytes, self._limit = idle_bytes, limit
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
        """Write a piece of a file; pieces come in order.

        Raises
        ------
        PackageError
            The name leaves the folder, a piece is out of order, or it is too much.
        """
        if len(name) > MAX_NAME or not _NAME.fullmatch(name):
            raise PackageError(f"upload of {name[:MAX_NAME]!r}: not a file name of a package.")
        path = self._folder / name
        if not path.resolve().is_relative_to(self._folder.resolve()):
            raise PackageError(f"upload of {name!r}: not a file name of a package.")
        self._files.add(name)
        if len(self._files) > MAX_FILES:
            raise PackageError(f"upload of {name!r}: more than {MAX_FILES} files.")
        self._received += len(data)
        if self._received > MAX_UPLOAD:
            raise PackageError(f"upload of {name!r}: more than {MAX_UPLOAD} bytes in all.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if offset else "wb") as file:
            if file.seek(0, 2) != offset:
                raise PackageError(f"upload of {name!r}: piece at {offset} is out of order.")
            file.write(data)

    def start(self, request: StartRequest) -> None:
        """Begin an epoch: check and load what it needs and start the compute thread.

        Raises
        ------
        PackageError
            A file is missing or damaged, or does not fit this machine.
        MemoryShortage
            The channel groups take more than this worker may have.
        ClusterError
            The epoch is not a later one, or a stage of the one before does not end.
        """
        if request.epoch <= self._epoch:
            raise ClusterError(
                f"epoch {request.epoch} after epoch {self._epoch}; expected a later one. "
                "Open a new session."
            )
        self._stop_engine()
        package = Package(self._folder)
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
        self._load(package, request.target, groups)
        if self._library is not None:
            self._start_engine(package, request, self._library, Link.of(self.transport, header))

    def status(self) -> dict[str, Any]:
        """Return what this device did and takes, as JSON data."""
        if self._epoch < 0:
            raise ClusterError("this deployment has not been started.")
        return {
            **device_status(self._counters, self._library, self._engine),
            "peak_bytes": max(0, memory().peak - self._idle_bytes),
            "processor_seconds": time.process_time(),
        }

    def time_stages(self, seconds: float) -> list[dict[str, Any]]:
        """Return what `decnn_tvm.runtime.stage_timing.time_stages` measures here."""
        if not 0 < seconds <= MAX_TIMING:
            raise ClusterError(f"stages: {seconds} s of timing; expected 0 to {MAX_TIMING:g}.")
        engine, library, request = self._engine, self._library, self._request
        if engine is None or library is None or request is None:
            raise ClusterError("this worker owns no channel groups, so it has no stages to time.")
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
        counters, seconds, library = self._counters, dict(self._counters.seconds), self._library
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
        """Stop, free and remove everything; return whether the compute thread ended in time."""
        ended = self._join(timeout)
        if ended:
            # A thread that still runs would send on closed sockets: its transport stays.
            self.transport.close()
            with freed_memory_returned():
                self._unload()
        else:
            logger.error("a stage did not end within %g s", timeout)
        shutil.rmtree(self._folder, ignore_errors=True)
        trim()
        return ended

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

    def _stop_engine(self) -> None:
        if not self._join(STAGE_TIMEOUT):
            raise ClusterError(f"a stage did not end within {STAGE_TIMEOUT:g} s.")
        self._engine = self._thread = None

    def _join(self, timeout: float) -> bool:
        self._stopping.set()
        if self._thread is None:
            return True
        self.transport.wake()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _unload(self) -> None:
        self._engine = self._library = self._thread = self._loaded = None
        empty_pool()

    def _load(self, package: Package, target: str, groups: Indices) -> None:
        """Have the library of these groups with their weights; free another one first."""
        if self._loaded == (target, groups):
            return
        with freed_memory_returned():
            self._unload()
            if groups:
                self._library = self._packed(package, target, groups)
        if groups:
            self._check_limit(f"{len(groups)} {package.plan.unit}")
            self._loaded = (target, groups)

    def _packed(self, package: Package, target: str, groups: Indices) -> StageLibrary:
        names = [n for n in package.files_for(target, groups) if n not in self._verified]
        package.verify(names)
        self._verified.update(names)
        path = package.file(package.library(target, len(groups)))
        try:
            return StageLibrary(path, package.plan, DeviceWeights(package, groups), groups)
        except MemoryError as error:
            share = f"{len(groups)} {package.plan.unit}"
            raise MemoryShortage(f"{share}: {error}.") from error

    def _check_limit(self, share: str) -> None:
        taken = memory().resident
        if self._limit is not None and taken > self._limit:
            self._unload()
            trim()
            raise MemoryShortage(
                f"{share} take {taken / 1e6:.1f} MB with the worker itself; "
                f"its limit is {self._limit / 1e6:.1f} MB."
            )
