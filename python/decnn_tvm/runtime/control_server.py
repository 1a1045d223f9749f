# SPDX-License-Identifier: Apache-2.0
"""The server of the control plane: a thread per client, a bounded number of them, each known.

A client that shows no trusted certificate is gone before anything it sends is looked at. Clients
that have not yet shown one are few and have seconds, so that they can't keep the others out for
long; a server that is out of descriptors waits until there are some again.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from rpyc.utils.server import ThreadedServer

from decnn_tvm.errors import ClusterError
from decnn_tvm.runtime.control import keep_alive, protocol
from decnn_tvm.runtime.control_channel import BoundedChannel, BoundedStream, WorkerConnection
from decnn_tvm.runtime.credentials import Credentials

logger = logging.getLogger(__name__)

MAX_CLIENTS = 32
MAX_HANDSHAKES = 16
"""Clients at once, and those of them that have not shown their certificate yet."""
HANDSHAKE_TIMEOUT = 5.0
OUT_OF_DESCRIPTORS = 0.1
"""Seconds until the next try to accept."""
_REMEDIES: dict[int | None, str] = {
    errno.EADDRINUSE: "Take another --port, or end what listens there.",
    errno.EACCES: "Take a --port above 1023.",
}


def _no_listening(host: str, port: int, error: Exception) -> str:
    """Return the sentence that says why a port can't be had, and what to do."""
    number = error.errno if isinstance(error, OSError) else None
    remedy = _REMEDIES.get(number, "Pass an IPv4 address of this machine as --host.")
    return f"can't listen on {host}, port {port} ({error}). {remedy}"


class ControlServer(ThreadedServer):  # type: ignore[misc]
    """Serves ``service()`` to every client.

    Parameters
    ----------
    service : callable
        Makes the service of one client.
    host, port
        Where to listen; port 0 for a free one.
    timeout : float
        Seconds that a read or write under way may take.
    credentials : Credentials, optional
        Whom to serve; anybody without.

    Raises
    ------
    ClusterError
        It can't listen there: the port is taken, or the host is no IPv4 address of this machine.
    """

    def __init__(
        self,
        service: Callable[[], Any],
        host: str,
        port: int,
        timeout: float,
        credentials: Credentials | None,
    ) -> None:
        try:
            super().__init__(
                service, hostname=host, port=port, logger=logger, protocol_config=protocol(timeout)
            )
        except (OSError, UnicodeError) as error:
            self.listener.close()
            raise ClusterError(_no_listening(host, port, error)) from error
        keep_alive(self.listener)
        self._make, self._timeout = service, timeout
        self._context = None if credentials is None else credentials.server_context()
        self._handshakes = threading.BoundedSemaphore(MAX_HANDSHAKES)
        self._short = False  # of descriptors; said once, and then again after a connection
        self.refused = 0

    def accept(self) -> None:
        """Take in one client, or refuse it where there are too many."""
        try:
            sock, address = self.listener.accept()
        except TimeoutError:
            return
        except OSError as error:
            if self.active:
                logger.log(logging.INFO if self._short else logging.WARNING, "no accept: %s", error)
                self._short = True
                time.sleep(OUT_OF_DESCRIPTORS)
            return
        self._short = False
        if len(self.clients) >= MAX_CLIENTS:
            self._refuse(sock, f"{address[0]}: more than {MAX_CLIENTS} clients")
            return
        self.clients.add(sock)
        try:
            threading.Thread(
                target=self._authenticate_and_serve_client, args=(sock,), daemon=True
            ).start()
        except RuntimeError as error:  # no more threads
            self._refuse(sock, str(error))

    def _authenticate_and_serve_client(self, sock: socket.socket) -> None:
        known = sock
        try:
            known = self._authenticated(sock)
            channel = BoundedChannel(BoundedStream(known, self._timeout))
            WorkerConnection(self._make(), channel, self.protocol_config).serve_all()
        except OSError as error:
            self._refuse(known, str(error))
        finally:
            self._forget(known)
            self._forget(sock)

    def _authenticated(self, sock: socket.socket) -> socket.socket:
        """Return the socket to talk through, once the other end is known."""
        if self._context is None:
            return sock
        if not self._handshakes.acquire(blocking=False):
            raise OSError(f"more than {MAX_HANDSHAKES} clients without a certificate")
        try:
            sock.settimeout(HANDSHAKE_TIMEOUT)
            known = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            self.clients.discard(sock)  # the new object owns its descriptor
            self.clients.add(known)
            try:
                known.do_handshake()
            except BaseException:
                self._forget(known)
                raise
            return known
        finally:
            self._handshakes.release()

    def _refuse(self, sock: socket.socket, why: str) -> None:
        self.refused += 1
        logger.info("refused a client: %s", why)
        self._forget(sock)

    def _forget(self, sock: socket.socket) -> None:
        self.clients.discard(sock)
        with contextlib.suppress(OSError):
            sock.close()
