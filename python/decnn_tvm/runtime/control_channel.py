# SPDX-License-Identifier: Apache-2.0
"""The control plane's packets and what rpyc may do with them.

rpyc is symmetric and generous: packets of any size, compressed or not, references to objects of the
other end, two dozen kinds of requests. Here a packet has a limit that is checked before memory is
taken, nothing is compressed, every read and write ends in time, a worker answers the few requests
that calling its exposed methods takes and follows no reference to the caller's objects, and an
error of the other end is text, never an exception class of its choice.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import rpyc
from rpyc.core import consts
from rpyc.core.channel import Channel
from rpyc.core.stream import ClosedFile, SocketStream

from decnn_tvm.errors import ClusterError
from decnn_tvm.runtime.own_process import OwnProcess

MAX_PACKET = 4 << 20
"""Bytes of a packet: a piece of an upload, or a status with its timeline."""
MAX_TEXT = 500
"""Characters that are kept of another end's complaint."""

_AGAIN = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
_ASKED_OF_A_WORKER = frozenset(
    (
        consts.HANDLE_GETROOT,
        consts.HANDLE_INSPECT,
        consts.HANDLE_GETATTR,
        consts.HANDLE_CALL,
        consts.HANDLE_DEL,
        consts.HANDLE_CLOSE,
    )
)
_ASKED_OF_A_COORDINATOR = frozenset((consts.HANDLE_CLOSE,))

A = TypeVar("A")
T = TypeVar("T")


class BoundedStream(SocketStream):  # type: ignore[misc]
    """A stream over a plain or a TLS socket whose reads and writes end after `limit` seconds.

    One thread may read while another writes: OpenSSL allows no two calls on a connection at once,
    so each call is short and takes a lock, and waiting happens outside.
    """

    sock: Any

    def __init__(self, sock: socket.socket, limit: float) -> None:
        super().__init__(sock)
        sock.setblocking(False)
        self._limit, self._turn = limit, threading.Lock()
        self._process = OwnProcess()

    def poll(self, timeout: Any) -> bool:
        """Wait for data; TLS may hold some that the system's own poll no longer sees."""
        pending = getattr(self.sock, "pending", None)
        if pending is not None:
            with self._turn:
                if pending():
                    return True
        return bool(super().poll(timeout))

    def read(self, count: int) -> bytes:
        """Read exactly `count` bytes, or raise `EOFError`."""
        deadline, parts = time.monotonic() + self._limit, []
        while count:
            size = min(count, self.MAX_IO_CHUNK)
            part = self._in_time(self.sock.recv, size, deadline)
            if not part:
                self.close()
                raise EOFError("connection closed by the other end")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def write(self, data: bytes) -> None:
        """Write all of `data`, or raise `EOFError`."""
        deadline, rest = time.monotonic() + self._limit, memoryview(data)
        while rest.nbytes:
            piece = rest[: self.MAX_IO_CHUNK]
            rest = rest[self._in_time(self.sock.send, piece, deadline) :]

    def close(self) -> None:
        """Close the connection, also where another thread still waits for it.

        A process that was forked lets go of its own end alone: the connection goes on.
        """
        sock, self.sock = self.sock, ClosedFile
        if sock is not ClosedFile:
            with contextlib.suppress(OSError):
                if not self._process.forked:
                    # SSLSocket's own would let another thread read on without TLS.
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
            sock.close()

    def _in_time(self, action: Callable[[A], T], argument: A, deadline: float) -> T:
        while True:
            try:
                with self._turn:
                    return action(argument)
            except _AGAIN as error:
                self._wait(isinstance(error, ssl.SSLWantReadError), deadline)
            except (OSError, ValueError) as error:
                self.close()
                raise EOFError(str(error)) from error

    def _wait(self, reading: bool, deadline: float) -> None:
        left = deadline - time.monotonic()
        if left <= 0:
            self.close()
            raise EOFError(f"half a message within {self._limit:g} s")
        poll = select.poll()
        poll.register(self.fileno(), select.POLLIN | (0 if reading else select.POLLOUT))
        poll.poll(1e3 * left)


class BoundedChannel(Channel):  # type: ignore[misc]
    """Packets of at most `MAX_PACKET` bytes, never compressed."""

    __slots__ = ()

    def __init__(self, stream: BoundedStream) -> None:
        super().__init__(stream, compress=False)

    def recv(self) -> bytes:
        """Return the next packet; end the connection where it is too long or compressed."""
        length, compressed = self.FRAME_HEADER.unpack(self.stream.read(self.FRAME_HEADER.size))
        if compressed or length > MAX_PACKET:
            self.close()
            raise EOFError(f"packet of {length} bytes; expected at most {MAX_PACKET}, plain")
        data: bytes = self.stream.read(length + len(self.FLUSHER))
        return data[: -len(self.FLUSHER)]


class CoordinatorConnection(rpyc.Connection):  # type: ignore[misc]
    """The coordinator's end: it calls, and serves nothing."""

    _asked = _ASKED_OF_A_COORDINATOR
    _closed: bool

    @classmethod
    def _request_handlers(cls) -> dict[int, Any]:
        known = super()._request_handlers()
        return {number: known[number] for number in cls._asked}

    def close(self) -> None:
        """End the connection; rpyc would ask the other end first and wait for its answer."""
        if not self._closed:
            self._closed = True
            self._cleanup()

    def _dispatch(self, data: bytes) -> None:
        try:
            super()._dispatch(data)
        except EOFError:
            raise
        except Exception as error:  # whatever brine and rpyc trip over in a malformed packet
            self.close()
            raise EOFError(f"malformed packet ({type(error).__name__})") from error

    def _unbox_exc(self, raw: Any) -> Exception:
        """Return an error of the other end; rpyc would raise a class that the other end names."""
        (_, name), arguments = raw[0], raw[1]
        text = f"{name}: {', '.join(map(str, arguments))}"
        return ClusterError(f"the call was refused ({text[:MAX_TEXT]}).")


class WorkerConnection(CoordinatorConnection):
    """The worker's end: it serves the calls of exposed methods with plain values."""

    _asked = _ASKED_OF_A_WORKER

    def _unbox(self, package: Any) -> Any:
        if package[0] == consts.LABEL_REMOTE_REF:
            raise ValueError("references to the caller's objects are not followed")
        return super()._unbox(package)
