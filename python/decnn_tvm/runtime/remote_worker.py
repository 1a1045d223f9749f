# SPDX-License-Identifier: Apache-2.0
"""The control plane, the coordinator's end: calls to one worker through rpyc.

Every call ends: with an answer, with the worker's error, or after its timeout, also where the
other end stops in the middle of an answer or speaks another protocol.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rpyc
from rpyc.core.channel import Channel
from rpyc.core.stream import SocketStream
from rpyc.utils.factory import connect_channel

from decnn_tvm import errors
from decnn_tvm.errors import ClusterError, ClusterTimeout, DecnnError
from decnn_tvm.runtime.control import keep_alive, protocol
from decnn_tvm.runtime.machine import Machine

CHUNK = 1 << 20
"""Bytes of one upload call."""
CLOSE_TIMEOUT = 8.0
"""Seconds that a worker has to end a session; more than it takes to stop a stage that hangs."""


class RemoteWorker:
    """The coordinator's end of the control plane to one worker.

    Parameters
    ----------
    address : str
        ``host:port`` of the worker's control plane.
    name : str
        What messages call it.
    timeout : float
        Seconds that connecting and each call may take.

    Raises
    ------
    ClusterError
        Nobody, or something that is no worker, answers at that address.
    """

    def __init__(self, address: str, name: str, timeout: float) -> None:
        self.address, self.name, self._timeout = address, name, timeout
        self.host, _, port = address.rpartition(":")
        if not self.host or not port.isdecimal() or int(port) > 65535:
            raise ClusterError(f"worker address {address!r}: expected host:port.")
        try:
            self._socket = socket.create_connection((self.host, int(port)), timeout=timeout)
        except OSError as error:
            raise ClusterError(
                f"no worker answers at {address} ({error}). Start it there with `decnn worker`."
            ) from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(self._socket)
        channel = Channel(_BoundedStream(self._socket), compress=False)
        self._connection = connect_channel(channel, config=protocol(timeout))
        self._methods: dict[str, Any] = {}
        try:
            # Looked up now, so that ending a session with a worker that hangs waits only once.
            self._translated("connect", lambda: self._method("close"))
        except BaseException:
            self.disconnect()
            raise

    def machine(self) -> Machine:
        """Return what the worker's machine is."""
        data = self.call("hello")
        return Machine(**{**data, "features": tuple(data["features"])})

    def call(self, method: str, *args: str | int | bytes, timeout: float | None = None) -> Any:
        """Call an exposed method and return its result; raise the error it answers."""

        def ask() -> Any:
            result = rpyc.async_(self._method(method))(*args)
            result.set_expiry(self._timeout if timeout is None else timeout)
            return json.loads(result.value)

        answer = self._translated(method, ask)
        if "error" in answer:
            raise _error_class(answer["error"])(f"{self.name}: {answer['message']}")
        return answer["result"]

    def upload(self, root: Path, name: str, cancelled: threading.Event) -> None:
        """Send a file of a package; give up where `cancelled` is set."""
        with (root / name).open("rb") as file:
            offset = 0
            while (data := file.read(CHUNK)) or not offset:
                if cancelled.is_set():
                    raise ClusterError(f"{self.name}: the upload was cancelled.")
                self.call("upload", name, offset, data)
                offset += len(data)
                if len(data) < CHUNK:
                    break

    def end_session(self) -> None:
        """Ask the worker to end our session.

        Raises
        ------
        ClusterError
            It is gone, does not answer, or a stage still runs.
        """
        if not self.call("close", timeout=min(CLOSE_TIMEOUT, self._timeout)):
            raise ClusterError(f"{self.name}: a stage does not end. Start the worker again.")

    def gone(self) -> bool:
        """Tell whether the connection has ended."""
        try:
            self._connection.poll(0)
        except (EOFError, OSError):
            return True
        return bool(self._connection.closed)

    def disconnect(self) -> None:
        """Close the connection at once; the worker then ends our session by itself."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(EOFError, OSError):
            self._connection.close()

    def _method(self, name: str) -> Any:
        if name not in self._methods:
            self._methods[name] = getattr(self._connection.root, name)
        return self._methods[name]

    def _translated(self, method: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except TimeoutError as error:
            raise ClusterTimeout(f"{self.name}: no answer to {method!r} in time.") from error
        except (EOFError, OSError) as error:
            raise ClusterError(f"{self.name}: went away during {method!r} ({error}).") from error
        except (ValueError, TypeError, KeyError, IndexError, struct.error) as error:
            raise ClusterError(
                f"{self.name}: what answers {method!r} is no worker of this version ({error})."
            ) from error


class _BoundedStream(SocketStream):  # type: ignore[misc]
    """A stream whose reads and writes end after the socket's timeout."""

    def read(self, count: int) -> bytes:
        """Read `count` bytes; the other end has the socket's timeout for them."""
        limit = self.sock.gettimeout() or 0.0
        deadline = time.monotonic() + limit
        parts = []
        while count:
            part = self._receive(min(count, self.MAX_IO_CHUNK), deadline, limit)
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _receive(self, count: int, deadline: float, limit: float) -> bytes:
        try:
            part: bytes = self.sock.recv(count) if time.monotonic() < deadline else b""
        except OSError as error:
            self.close()
            raise EOFError(str(error) or f"half an answer within {limit:g} s") from error
        if not part:
            self.close()
            raise EOFError("connection closed by the other end")
        return part


def _error_class(name: str) -> type[DecnnError]:
    found = getattr(errors, name, ClusterError)
    return found if isinstance(found, type) and issubclass(found, DecnnError) else ClusterError
