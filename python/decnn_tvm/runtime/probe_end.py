# SPDX-License-Identifier: Apache-2.0
"""The worker's end of link measurements: what the control plane's ``probe`` does."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

from decnn_tvm.errors import ClusterError
from decnn_tvm.runtime.probe import PAYLOAD, Measurement
from decnn_tvm.runtime.transport import ZmqTransport


class ProbeEnd:
    """One worker's end of the measurements of one caller at a time.

    Parameters
    ----------
    host : str
        Interface of the data plane.
    encrypt : bool
        Whether both ends must know each other's keys.
    busy : callable
        Tells whether a session runs, which a measurement would disturb.
    """

    def __init__(self, host: str, *, encrypt: bool, busy: Callable[[], bool]) -> None:
        self._host, self._encrypt, self._busy = host, encrypt, busy
        self._lock = threading.Lock()
        self._owner: object = None
        self._transport: ZmqTransport | None = None
        self._cluster = b""

    def take(self, owner: object, step: str, request: Any) -> Any:
        """Take a step: ``open``, ``answer``, ``measure`` or ``close``.

        Parameters
        ----------
        owner : object
            Who asks; others are refused until it closes or goes.
        step : str
            What to do.
        request : dict
            ``open`` takes the ``cluster`` in hexadecimal and gives the locator of this end;
            ``answer`` and ``measure`` take ``number``, ``rank``, ``peer`` and ``address``.

        Raises
        ------
        ClusterError
            No such step or request, or this worker is busy.
        """
        try:
            if step == "open":
                return self._open(owner, bytes.fromhex(request["cluster"]))
            if step == "close":
                return self.close(owner)
            numbers = {name: int(request[name]) for name in ("number", "rank", "peer")}
            address = str(request["address"])
        except (KeyError, TypeError, ValueError) as error:
            raise ClusterError(
                f"probe: no such request ({error!r}). Install the same decnn-tvm everywhere."
            ) from error
        transport = self._of(owner)
        measurement = Measurement(**numbers, cluster=self._cluster)
        transport.connect({measurement.peer: address})
        if step == "measure":
            return dataclasses.asdict(measurement.measure(transport))
        if step == "answer":
            return measurement.answer(transport)
        raise ClusterError(f"probe: no step {step!r}. Install the same decnn-tvm everywhere.")

    def close(self, owner: object) -> None:
        """Free what `owner` has opened."""
        with self._lock:
            if self._owner is not owner or self._transport is None:
                return
            transport, self._transport, self._owner = self._transport, None, None
        transport.close()

    def _open(self, owner: object, cluster: bytes) -> str:
        self.close(owner)
        with self._lock:
            if self._busy() or self._transport is not None:
                raise ClusterError(
                    "busy with another session, which a measurement would disturb. Try again later."
                )
            self._owner, self._cluster = owner, cluster
            self._transport = ZmqTransport(
                self._host, cluster=cluster, max_payload=PAYLOAD, encrypt=self._encrypt
            )
            return self._transport.locator

    def _of(self, owner: object) -> ZmqTransport:
        if self._transport is None or self._owner is not owner:
            raise ClusterError("no measurement is open. Open one first.")
        return self._transport
