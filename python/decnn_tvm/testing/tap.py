# SPDX-License-Identifier: Apache-2.0
"""Somebody on the path: forwards connections to a port of loopback and keeps what goes there."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

JOIN = 10.0


@contextlib.contextmanager
def tap(target: int) -> Iterator[tuple[int, bytearray]]:
    """Yield a port whose first connection leads to port `target`, and what was sent there.

    End the connection before the block ends.
    """
    seen = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_serve, args=(server, target, seen), daemon=True)
        thread.start()
        yield server.getsockname()[1], seen
    thread.join(JOIN)


def _serve(server: socket.socket, target: int, seen: bytearray) -> None:
    with contextlib.suppress(OSError):
        client, _ = server.accept()
        with client, socket.create_connection(("127.0.0.1", target)) as onward:
            back = threading.Thread(target=_copy, args=(onward, client, bytearray()), daemon=True)
            back.start()
            _copy(client, onward, seen)
            back.join(JOIN)


def _copy(source: socket.socket, sink: socket.socket, seen: bytearray) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            seen.extend(data)
            sink.sendall(data)
    for end in (source, sink):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
