# SPDX-License-Identifier: Apache-2.0
"""A package at work in a worker: its folder, its library, its network end, its compute thread."""

from __future__ import annotations

import logging
import re
import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from decnn_tvm.errors import ClusterError, PackageError
from decnn_tvm.package import Package
from decnn_tvm.plan import Indices
from decnn_tvm.runtime.engine import Engine, Link
from decnn_tvm.runtime.executor import Executor
from decnn_tvm.runtime.library import StageLibrary, empty_pool
from decnn_tvm.runtime.machine import choose_target, memory, reset_peak, this_machine, trim
from decnn_tvm.runtime.transport import ZmqTransport
from decnn_tvm.runtime.weights import DeviceWeights
from decnn_tvm.runtime.wire import MAX_PAYLOAD

logger = logging.getLogger(__name__)

MAX_UPLOAD = 4 << 30
"""Bytes of all files of a package on one worker."""
MAX_FILES = 4096
MAX_NAME = 200
_NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/){0,3}[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRequest:
    """What a worker is told to start; travels as JSON."""

    rank: int
    target: str
    assignment: tuple[Indices, ...]
    addresses: dict[int, str]
    cluster: str
    epoch: int

    @staticmethod
    def from_json(data: dict[str, Any]) -> StartRequest:
        """Read the request back from JSON data; raise `ClusterError` on anything else."""
        try:
            assignment = tuple(tuple(int(g) for g in groups) for groups in data["assignment"])
            addresses = {int(rank): str(address) for rank, address in data["addresses"].items()}
            return StartRequest(**{**data, "assignment": assignment, "addresses": addresses})
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ClusterError(
                f"start: no such request ({type(error).__name__}: {error}). Install the same "
                "decnn-tvm everywhere."
            ) from error


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
    guard : Guard
        What the data plane takes.
    """

    def __init__(self, folder: Path, host: str, idle_bytes: int, guard: Guard) -> None:
        self._folder = folder
        self._received = 0
        self._files: set[str] = set()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._engine: Engine | None = None
        self._request: StartRequest | None = None
        self._library: StageLibrary | None = None
        self._idle_bytes = idle_bytes
        reset_peak()
        folder.mkdir(mode=0o700)
        self.transport = ZmqTransport(
            host, cluster=guard.cluster, max_payload=guard.max_payload, encrypt=guard.encrypt
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
        """Check and load the package and start the compute thread."""
        if self._thread is not None:
            raise ClusterError("this deployment has been started before. Open a new session.")
        package = Package(self._folder)
        choose_target(package.manifest, this_machine(), "this machine", request.target)
        groups = request.assignment[request.rank]
        package.verify(package.files_for(request.target, groups))
        self._library = self._load(package, request.target, groups)
        self.transport.connect(request.addresses)
        cluster = bytes.fromhex(request.cluster)
        link = Link(self.transport, cluster, request.epoch, request.rank)
        executor = Executor(package.plan, request.assignment, request.rank)
        self._request = request
        self._engine = Engine(executor, self._library, link)
        self._thread = threading.Thread(
            target=self._engine.loop, args=(self._stopping,), name="decnn-compute", daemon=True
        )
        self._thread.start()

    def status(self) -> dict[str, Any]:
        """Return what this device did and takes, as JSON data."""
        if self._engine is None:
            raise ClusterError("this deployment has not been started.")
        return {**self._engine.status(), "peak_bytes": max(0, memory().peak - self._idle_bytes)}

    def observe(self) -> dict[str, Any]:
        """Return what an `Observation` says of a session; another thread may be loading it."""
        traffic, engine, request = self.transport.traffic, self._engine, self._request
        seen: dict[str, Any] = {
            "state": "loading",
            "sent_bytes": dict(traffic.sent),
            "received_bytes": dict(traffic.received),
            "refused_messages": traffic.refused,
        }
        if engine is None or request is None:
            return seen
        counters, seconds, library = engine.counters, dict(engine.counters.seconds), self._library
        return seen | {
            "state": "failed" if engine.failure else "running",
            "model": engine.executor.plan.model,
            "rank": request.rank,
            "groups": request.assignment[request.rank],
            "samples": counters.samples,
            "open_samples": engine.executor.open_samples,
            "compute_seconds": counters.compute_seconds,
            "wait_seconds": counters.wait_seconds,
            "transfer_seconds": seconds.get("send", 0.0) + seconds.get("receive", 0.0),
            "weight_bytes": 0 if library is None else library.weight_bytes,
            "failure": engine.failure or "",
        }

    def close(self, timeout: float) -> bool:
        """Stop, free and remove everything; return whether the compute thread ended in time."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout)
        ended = self._thread is None or not self._thread.is_alive()
        if ended:
            # A thread that still runs would send on closed sockets: its transport stays.
            self.transport.close()
            self._engine = self._library = self._thread = None
            empty_pool()
        else:
            logger.error("a stage did not end within %g s", timeout)
        shutil.rmtree(self._folder, ignore_errors=True)
        trim()
        return ended

    def _load(self, package: Package, target: str, groups: Indices) -> StageLibrary:
        path = package.file(package.library(target, len(groups)))
        library = StageLibrary(path, package.plan, DeviceWeights(package, groups))
        trim()
        return library
