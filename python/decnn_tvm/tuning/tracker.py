# SPDX-License-Identifier: Apache-2.0
"""An RPC tracker and the key of its boards, asked with a limit on every wait."""

from __future__ import annotations

import logging
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from tvm.rpc import base

from decnn_tvm.errors import ClusterError, InputError
from decnn_tvm.runtime.exposure import is_loopback

logger = logging.getLogger(__name__)

TIMEOUT = 5.0
"""Seconds that a tracker may take for an answer."""
PATIENCE = 60.0
"""Seconds within which a lost board must be back: time enough to start again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracker:
    """Where boards are asked for.

    Attributes
    ----------
    host, port
        Address of the tracker.
    key
        What the boards were registered as.
    """

    host: str
    port: int
    key: str

    @classmethod
    def parse(cls, address: str, key: str | None) -> Tracker:
        """Return the tracker at ``host:port``.

        Raises
        ------
        InputError
            The address has another form, or there is no key.
        """
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
            raise InputError(f"tracker {address!r}: expected host:port, such as 127.0.0.1:9190")
        if not key:
            raise InputError(
                f"tracker {address}: expected a key too, what the boards were registered as"
            )
        if not is_loopback(host):
            logger.warning(
                "INSECURE: TVM's RPC authenticates nobody; who reaches the tracker at %s or its "
                "boards can run code there. docs/SECURITY.md has the way through a tunnel.",
                host,
            )
        return cls(host=host, port=int(port), key=key)

    def check(self) -> int:
        """Return how many boards the tracker has.

        Raises
        ------
        ClusterError
            No tracker answers there, or no board is registered under the key.
        """
        keys = self._boards()
        if self.key not in keys:
            others = ", ".join(map(repr, sorted(set(keys)))) or "none"
            raise ClusterError(
                f"tracker {self.host}:{self.port}: no device under the key {self.key!r}; it has "
                f"{others}. Start `decnn worker --tuning` there with that key."
            )
        return keys.count(self.key)

    def wait_for_board(self, ask: Callable[[], None]) -> None:
        """Wait until a board answers again.

        Parameters
        ----------
        ask
            Raises `ClusterError` as long as none does. What the tracker has of a board may lack
            power: only a connection that is closed tells the tracker so.

        Raises
        ------
        ClusterError
            None does within `PATIENCE`.
        """
        end = time.monotonic() + PATIENCE
        while True:
            try:
                self.check()
                ask()
            except ClusterError as error:
                if time.monotonic() >= end:
                    raise
                logger.warning("waiting for a board: %s", error)
                time.sleep(1.0)
            else:
                return

    def _boards(self) -> list[str]:
        """Return the keys of the registered boards."""
        address = f"{self.host}:{self.port}"
        try:
            with socket.create_connection((self.host, self.port), timeout=TIMEOUT) as connection:
                connection.settimeout(TIMEOUT)
                connection.sendall(struct.pack("<i", base.RPC_TRACKER_MAGIC))
                (magic,) = struct.unpack("<i", base.recvall(connection, 4))
                if magic != base.RPC_TRACKER_MAGIC:
                    raise ClusterError(f"{address}: something answers there that is no RPC tracker")
                base.sendjson(connection, [base.TrackerCode.SUMMARY])
                status, summary = base.recvjson(connection)
        except (OSError, ValueError, struct.error) as error:
            raise ClusterError(
                f"no RPC tracker answers at {address} ({error}). "
                "Start one with `python -m tvm.exec.rpc_tracker --host 127.0.0.1`."
            ) from error
        if status != base.TrackerCode.SUCCESS:
            raise ClusterError(f"tracker {address}: does not say which devices it has")
        return [str(info["key"]).removeprefix("server:") for info in summary["server_info"]]
