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
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import rpyc

from decnn_tvm import errors
from decnn_tvm.errors import ClusterError, ClusterTimeout, DecnnError
from decnn_tvm.runtime.control import keep_alive, protocol
from decnn_tvm.runtime.control_channel import (
    BoundedChannel,
    BoundedStream,
    CoordinatorConnection,
)
from decnn_tvm.runtime.credentials import Credentials
from decnn_tvm.runtime.machine import Machine
from decnn_tvm.runtime.observation import Observation

T = TypeVar("T")

CHUNK = 1 << 20
"""Bytes of one upload call."""
FOREIGN = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    struct.error,
)
"""What reading the answer of something else raises."""
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
    credentials : Credentials, optional
        Who we are and which workers we trust; the connection is then encrypted.

    Raises
    ------
    ClusterError
        Nobody, something that is no worker, or a worker with other keys answers at that address.
    """

    def __init__(
        self, address: str, name: str, timeout: float, credentials: Credentials | None = None
    ) -> None:
        self.address, self.name, self._timeout = address, name, timeout
        self.host, _, port = address.rpartition(":")
        if not self.host or not port.isdecimal() or int(port) > 65535:
            raise ClusterError(f"worker address {address!r}: expected host:port.")
        self._socket = self._connect(int(port), credentials)
        self._stream = BoundedStream(self._socket, timeout)
        channel = BoundedChannel(self._stream)
        self._connection = CoordinatorConnection(rpyc.VoidService(), channel, protocol(timeout))
        self._methods: dict[str, Any] = {}
        try:
            # Looked up now, so that ending a session with a worker that hangs waits only once.
            self._translated("connect", lambda: self._method("close"))
        except ClusterTimeout:
            self.disconnect()
            raise
        except ClusterError as error:
            self.disconnect()
            hint = "it has keys" if credentials is None else "it does not trust these keys"
            raise ClusterError(f"{error} Is it a worker, and could it be that {hint}?") from error
        except BaseException:
            self.disconnect()
            raise

    def machine(self) -> Machine:
        """Return what the worker's machine is."""
        return self.ask("hello", Machine.from_json)

    def capacity(self) -> int:
        """Return the bytes that a session may take on the worker."""
        return self.ask("capacity", as_whole)

    def observe(self) -> Observation:
        """Return what the worker shows, also while another coordinator's session runs there."""
        return self.ask("observe", Observation.from_json)

    def call(self, method: str, *args: str | int | bytes, timeout: float | None = None) -> Any:
        """Call an exposed method and return its result; raise the error it answers."""
        return self.ask(method, lambda result: result, *args, timeout=timeout)

    def ask(
        self,
        method: str,
        read: Callable[[Any], T],
        *args: str | int | bytes,
        timeout: float | None = None,
    ) -> T:
        """Call an exposed method and return what `read` makes of its result.

        Whatever `read` raises where it can't use the result says that the worker is of another
        version, which is a `ClusterError` as any other trouble with it.
        """

        def answered() -> dict[str, Any]:
            result = rpyc.async_(self._method(method))(*args)
            result.set_expiry(self._timeout if timeout is None else timeout)
            return _parsed(result.value)

        answer = self._translated(method, answered)
        if "error" in answer:
            raise _error_class(answer["error"])(f"{self.name}: {answer['message']}")
        return self._translated(method, lambda: read(answer["result"]))

    def upload(self, name: str, pieces: Iterable[bytes], cancelled: threading.Event) -> int:
        """Send a file of a package; give up where `cancelled` is set. Return its bytes."""
        offset = 0
        for piece in pieces:
            if cancelled.is_set():
                raise ClusterError(f"{self.name}: the upload was cancelled.")
            self.call("upload", name, offset, piece)
            offset += len(piece)
        return offset

    def end_session(self) -> None:
        """Ask the worker to end our session.

        Raises
        ------
        ClusterError
            It is gone, does not answer, or a stage still runs.
        """
        if not self.call("close", timeout=min(CLOSE_TIMEOUT, self._timeout)):
            raise ClusterError(
                f"{self.name}: a stage still runs. It is busy until that ends; if it hangs, "
                "start the worker again."
            )

    def gone(self) -> bool:
        """Tell whether the connection has ended."""
        try:
            if not self._stream.poll(0):  # the usual case, asked often: spare it rpyc's own way
                return bool(self._connection.closed)
            self._connection.poll(0)
        except (EOFError, OSError):
            return True
        return bool(self._connection.closed)

    def disconnect(self) -> None:
        """Close the connection at once; the worker then ends our session by itself."""
        with contextlib.suppress(EOFError, OSError):
            self._connection.close()

    @property
    def timeout(self) -> float:
        """Seconds that a call may take."""
        return self._timeout

    @property
    def own_host(self) -> str:
        """The address of this machine that the worker sees."""
        return str(self._socket.getsockname()[0])

    def _connect(self, port: int, credentials: Credentials | None) -> socket.socket:
        try:
            plain = socket.create_connection((self.host, port), timeout=self._timeout)
        except OSError as error:
            raise ClusterError(
                f"no worker answers at {self.address} ({error}). Start it there with "
                "`decnn worker`."
            ) from error
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        keep_alive(plain)
        if credentials is None:
            return plain
        try:
            return credentials.secure(plain, self.address)
        except OSError as error:
            plain.close()
            raise ClusterError(
                f"{self.name}: no TLS connection to {self.address} ({error}). Start that worker "
                f"with --keys and the folder that {credentials.folder} was made with."
            ) from error

    def _method(self, name: str) -> Any:
        if name not in self._methods:
            self._methods[name] = getattr(self._connection.root, name)
        return self._methods[name]

    def _translated(self, method: str, action: Callable[[], T]) -> T:
        try:
            return action()
        except ClusterError as error:
            raise ClusterError(f"{self.name}: {method!r}: {error}") from error
        except TimeoutError as error:
            raise ClusterTimeout(f"{self.name}: no answer to {method!r} in time.") from error
        except (EOFError, OSError) as error:
            raise ClusterError(f"{self.name}: went away during {method!r} ({error}).") from error
        except FOREIGN as error:
            raise ClusterError(
                f"{self.name}: what answers {method!r} is no worker of this version "
                f"({type(error).__name__}: {error}). Install the same decnn-tvm everywhere."
            ) from error


def as_whole(value: object) -> int:
    """Return a value that is an integer; raise `TypeError` otherwise."""
    if type(value) is not int:
        raise TypeError(f"{type(value).__name__} in place of an integer")
    return value


def as_text(value: object) -> str:
    """Return a value that is a string; raise `TypeError` otherwise."""
    if type(value) is not str:
        raise TypeError(f"{type(value).__name__} in place of a string")
    return value


def _parsed(answer: object) -> dict[str, Any]:
    """Read an answer, which must be plain text: rpyc could deliver a proxy that poses as text."""
    data = json.loads(answer) if type(answer) is str else None
    if not isinstance(data, dict):
        raise TypeError(f"answer of type {type(answer).__name__}")
    if "error" in data:
        return {key: as_text(data[key]) for key in ("error", "message")}
    return {"result": data["result"]}


def _error_class(name: str) -> type[DecnnError]:
    found = getattr(errors, name, ClusterError)
    return found if isinstance(found, type) and issubclass(found, DecnnError) else ClusterError
