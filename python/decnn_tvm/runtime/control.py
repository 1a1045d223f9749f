# SPDX-License-Identifier: Apache-2.0
"""The control plane, the worker's end: what a coordinator can call through rpyc.

Only exposed methods can be called, arguments and results are numbers, strings and bytes (JSON for
more), nothing is pickled, and errors travel as data.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rpyc

from decnn_tvm.errors import ClusterError, DecnnError
from decnn_tvm.runtime.deployment import Deployment
from decnn_tvm.runtime.machine import available, memory, this_machine
from decnn_tvm.runtime.observation import Observation
from decnn_tvm.runtime.policy import Policy
from decnn_tvm.runtime.probe_end import ProbeEnd
from decnn_tvm.runtime.start_request import StartRequest
from decnn_tvm.runtime.transport import Guard
from decnn_tvm.runtime.wire import MAX_ERROR, MAX_PAYLOAD

logger = logging.getLogger(__name__)


def protocol(timeout: float) -> dict[str, Any]:
    """Return rpyc's settings: everything off but exposed methods."""
    return {
        "allow_safe_attrs": False,
        "allow_exposed_attrs": True,
        "allow_public_attrs": False,
        "allow_all_attrs": False,
        "allow_getattr": True,
        "allow_setattr": False,
        "allow_delattr": False,
        "allow_pickle": False,
        "include_local_traceback": False,
        "include_local_version": False,
        "import_custom_exceptions": False,
        "instantiate_custom_exceptions": False,
        "sync_request_timeout": timeout,
    }


def keep_alive(sock: socket.socket) -> None:
    """Have the system notice that the machine at the other end is gone."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 30), (socket.TCP_KEEPINTVL, 10)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _answer(method: Callable[..., Any]) -> Callable[..., str]:
    """Make a method answer JSON: its result, or the error it raised."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def answered(self: Any, *args: Any) -> str:
        try:
            try:
                signature.bind(self, *args)
            except TypeError as error:
                raise ClusterError(f"{error}. Install the same decnn-tvm everywhere.") from error
            return json.dumps({"result": method(self, *args)})
        except DecnnError as error:
            return json.dumps({"error": type(error).__name__, "message": str(error)})
        except Exception as error:  # any cause must reach the coordinator
            logger.exception("control call failed")
            message = f"{type(error).__name__}: {error}"
            return json.dumps({"error": "ClusterError", "message": message})

    return answered


def _expect(value: object, kind: type) -> None:
    if type(value) is not kind:
        raise ClusterError(
            f"an argument is {type(value).__name__}; expected {kind.__name__}. Install the same "
            "decnn-tvm everywhere."
        )


def _parsed(request: str) -> Any:
    try:
        return json.loads(request)
    except (ValueError, RecursionError) as error:
        raise ClusterError(f"the request is no JSON ({error}).") from error


class WorkerState:
    """What the connections to one worker share: its one deployment.

    Memory of a deployment counts from what the process takes when this is made; `limit` is what
    the whole process may take.
    """

    def __init__(
        self,
        folder: Path,
        host: str,
        stop_timeout: float,
        limit: int | None = None,
        *,
        encrypt: bool = False,
    ) -> None:
        self.folder, self.host, self.stop_timeout = folder, host, stop_timeout
        self.limit, self.encrypt = limit, encrypt
        self.idle_bytes = memory().resident
        self.lock = threading.Lock()
        self.deployment: Deployment | None = None
        self._leaving: Deployment | None = None
        self.owner: object = None
        self.refused_clients: Callable[[], int] = lambda: 0
        self.probe = ProbeEnd(host, encrypt=encrypt, busy=lambda: self.deployment is not None)
        self._count = 0

    @property
    def capacity(self) -> int:
        """Bytes that a deployment may take: of the limit, or else of what the machine has."""
        free = available()
        return free if self.limit is None else min(free, max(0, self.limit - self.idle_bytes))

    def open(
        self, owner: object, policy: Policy, cluster: bytes | None, max_payload: int
    ) -> Deployment:
        """Make a deployment for `owner`; refuse where another has one."""
        guard = Guard(cluster=cluster, max_payload=max_payload, encrypt=self.encrypt)
        with self.lock:
            if self.deployment is not None:
                raise ClusterError("busy with another session. Close that one first.")
            if self._leaving is not None and not self._leaving.ended.is_set():
                # Its memory is still taken, and TVM's pool is that of the whole process.
                raise ClusterError(
                    "busy with a stage of a session that was closed. Try again when that has "
                    "ended; if it hangs, start the worker again."
                )
            self._leaving = None
            self._count += 1
            folder = self.folder / f"session{self._count}"
            self.deployment = Deployment(
                folder, self.host, self.idle_bytes, policy, self.limit, guard
            )
            self.owner = owner
            return self.deployment

    def close(self, owner: object) -> bool:
        """End the deployment of `owner`, if it has one."""
        with self.lock:
            if self.deployment is None or self.owner is not owner:
                return True
            deployment, self.deployment, self.owner = self.deployment, None, None
            self._leaving = deployment
            return deployment.close(self.stop_timeout)

    def observe(self) -> Observation:
        """Return what anybody who may connect can see; waits for nothing."""
        deployment = self.deployment
        return Observation(
            at=time.monotonic(),
            session=self._count,
            resident_bytes=memory().resident,
            refused_clients=self.refused_clients(),
            **({"state": "idle"} if deployment is None else deployment.observe()),
        )

    def close_orphan(self) -> None:
        """End the deployment if its coordinator has been silent for too long."""
        deployment, owner = self.deployment, self.owner
        if deployment is not None and deployment.orphaned:
            logger.error("the coordinator is silent: its session ends")
            self.close(owner)

    def shut_down(self) -> None:
        """End whatever runs, before the process ends."""
        self.close(self.owner)

    def of(self, owner: object) -> Deployment:
        """Return the deployment of `owner`."""
        if self.deployment is None or self.owner is not owner:
            raise ClusterError("no session is open. Open one first.")
        return self.deployment


class ControlService(rpyc.Service):  # type: ignore[misc]
    """What a coordinator can ask of a worker."""

    def __init__(self, state: WorkerState) -> None:
        super().__init__()
        self._state = state
        # rpyc keeps every object that it has handed out, and a bound method is a new one each time.
        for name in [n for n in dir(type(self)) if n.startswith("exposed_")]:
            setattr(self, name, getattr(self, name))

    def on_disconnect(self, conn: Any) -> None:
        """End what the coordinator that went away had started."""
        self._state.probe.close(self)
        self._state.close(self)

    @_answer
    def exposed_hello(self) -> dict[str, Any]:
        """Return machine, CPU features and versions."""
        return dataclasses.asdict(this_machine())

    @_answer
    def exposed_modules(self) -> list[str]:
        """Return the names of the modules that this worker has imported."""
        return sorted(name for name, module in list(sys.modules.items()) if module is not None)

    @_answer
    def exposed_capacity(self) -> int:
        """Return the bytes that a session may take here."""
        return self._state.capacity

    @_answer
    def exposed_clock(self) -> float:
        """Return the seconds since 1970 on this machine's clock."""
        return time.time()

    @_answer
    def exposed_probe(self, step: str, request: str) -> Any:
        """Take a step in the measurement of a link; see `ProbeEnd.take`."""
        _expect(step, str)
        _expect(request, str)
        return self._state.probe.take(self, step, _parsed(request))

    @_answer
    def exposed_open(
        self, policy: str = "{}", cluster: str = "", max_payload: int = MAX_PAYLOAD
    ) -> str:
        """Open a session; return its data plane's port, and its key where there are keys."""
        _expect(policy, str)
        _expect(cluster, str)
        _expect(max_payload, int)
        try:
            name, patience = bytes.fromhex(cluster) or None, Policy(**json.loads(policy))
        except (ValueError, TypeError, RecursionError) as error:
            raise ClusterError(
                f"open: no such policy or cluster ({error}). Install the same decnn-tvm everywhere."
            ) from error
        deployment = self._state.open(self, patience, name, max(MAX_ERROR, max_payload))
        return deployment.transport.locator

    @_answer
    def exposed_upload(self, name: str, offset: int, data: bytes) -> None:
        """Take a piece of a file of the package."""
        _expect(name, str)
        _expect(offset, int)
        _expect(data, bytes)
        self._state.of(self).upload(name, offset, data)

    @_answer
    def exposed_start(self, request: str) -> None:
        """Load the package and start computing."""
        _expect(request, str)
        deployment = self._state.of(self)
        deployment.start(StartRequest.from_json(_parsed(request)))

    @_answer
    def exposed_status(self) -> dict[str, Any]:
        """Return counters, memory and timeline."""
        return self._state.of(self).status()

    @_answer
    def exposed_time_stages(self, milliseconds: int) -> list[dict[str, Any]]:
        """Time the stages of our session on ready data."""
        _expect(milliseconds, int)
        return self._state.of(self).time_stages(1e-3 * milliseconds)

    @_answer
    def exposed_observe(self) -> dict[str, Any]:
        """Return state, progress, memory and traffic, whoever's session it is."""
        return self._state.observe().to_json()

    @_answer
    def exposed_close(self) -> bool:
        """End the session."""
        return self._state.close(self)
