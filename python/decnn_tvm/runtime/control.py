# SPDX-License-Identifier: Apache-2.0
"""The control plane, the worker's end: what a coordinator can call through rpyc.

Only exposed methods can be called, arguments and results are numbers, strings and bytes (JSON for
more), nothing is pickled, and errors travel as data.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rpyc

from decnn_tvm.errors import ClusterError, DecnnError
from decnn_tvm.runtime.deployment import Deployment, StartRequest
from decnn_tvm.runtime.machine import available, memory, this_machine
from decnn_tvm.runtime.policy import Policy

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

    @functools.wraps(method)
    def answered(self: Any, *args: Any) -> str:
        try:
            return json.dumps({"result": method(self, *args)})
        except DecnnError as error:
            return json.dumps({"error": type(error).__name__, "message": str(error)})
        except Exception as error:  # any cause must reach the coordinator
            logger.exception("control call failed")
            message = f"{type(error).__name__}: {error}"
            return json.dumps({"error": "ClusterError", "message": message})

    return answered


class WorkerState:
    """What the connections to one worker share: its one deployment.

    Memory of a deployment counts from what the process takes when this is made; `limit` is what
    the whole process may take.
    """

    def __init__(
        self, folder: Path, host: str, stop_timeout: float, limit: int | None = None
    ) -> None:
        self.folder, self.host, self.stop_timeout = folder, host, stop_timeout
        self.limit = limit
        self.idle_bytes = memory().resident
        self.lock = threading.Lock()
        self.deployment: Deployment | None = None
        self.owner: object = None
        self._count = 0

    @property
    def capacity(self) -> int:
        """Bytes that a deployment may take: of the limit, or else of what the machine has."""
        free = available()
        return free if self.limit is None else min(free, max(0, self.limit - self.idle_bytes))

    def open(self, owner: object, policy: Policy | None = None) -> Deployment:
        """Make a deployment for `owner`; refuse where another has one."""
        with self.lock:
            if self.deployment is not None:
                raise ClusterError("busy with another session. Close that one first.")
            self._count += 1
            folder = self.folder / f"session{self._count}"
            self.deployment = Deployment(folder, self.host, self.idle_bytes, policy, self.limit)
            self.owner = owner
            return self.deployment

    def close(self, owner: object) -> bool:
        """End the deployment of `owner`, if it has one."""
        with self.lock:
            if self.deployment is None or self.owner is not owner:
                return True
            deployment, self.deployment, self.owner = self.deployment, None, None
            return deployment.close(self.stop_timeout)

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

    def on_disconnect(self, conn: Any) -> None:
        """End what the coordinator that went away had started."""
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
    def exposed_open(self, policy: str = "{}") -> int:
        """Open a session; return the port of its data plane."""
        return self._state.open(self, Policy(**json.loads(policy))).transport.port

    @_answer
    def exposed_upload(self, name: str, offset: int, data: bytes) -> None:
        """Take a piece of a file of the package."""
        self._state.of(self).upload(name, offset, data)

    @_answer
    def exposed_start(self, request: str) -> None:
        """Load the package and start computing."""
        self._state.of(self).start(StartRequest.from_json(json.loads(request)))

    @_answer
    def exposed_status(self) -> dict[str, Any]:
        """Return counters, memory and timeline."""
        return self._state.of(self).status()

    @_answer
    def exposed_close(self) -> bool:
        """End the session."""
        return self._state.close(self)
