# SPDX-License-Identifier: Apache-2.0
"""Looking at workers from outside, again and again, whoever's session they run."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from decnn_tvm.errors import ClusterError
from decnn_tvm.runtime.credentials import Credentials
from decnn_tvm.runtime.exposure import accept_all
from decnn_tvm.runtime.observation import Observation, Rates, rates
from decnn_tvm.runtime.remote_worker import RemoteWorker

TIMEOUT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One look at one worker: what it shows, or why it shows nothing."""

    address: str
    observation: Observation | None
    rates: Rates
    error: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return asdict(self)


class Watcher:
    """Observes workers over the control plane; starts, stops and disturbs nothing.

    Close it in the end. A worker that does not answer is tried again at the next look.

    Parameters
    ----------
    addresses : sequence of str
        ``host:port`` of the workers.
    keys : path, optional
        The coordinator's folder of those that ``decnn keys`` made.
    insecure : bool
        Do without keys beyond loopback.
    timeout : float
        Seconds that connecting and asking may take.

    Raises
    ------
    InputError
        An address beyond loopback with neither `keys` nor `insecure`, or the keys are damaged.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        keys: Path | str | None = None,
        insecure: bool = False,
        timeout: float = TIMEOUT,
    ) -> None:
        self._credentials = None if keys is None else Credentials.load(keys)
        accept_all(addresses, keys=self._credentials is not None, insecure=insecure)
        self._addresses, self._timeout = tuple(addresses), timeout
        self._workers: dict[str, RemoteWorker] = {}
        self._last: dict[str, Observation] = {}

    def look(self) -> list[Seen]:
        """Observe all workers at once; rates are those since the last look."""
        with ThreadPoolExecutor(len(self._addresses)) as pool:
            return list(pool.map(self._look_at, self._addresses))

    def close(self) -> None:
        """Close the connections."""
        for address in list(self._workers):
            self._workers.pop(address).disconnect()

    def _look_at(self, address: str) -> Seen:
        try:
            if address not in self._workers:
                self._workers[address] = RemoteWorker(
                    address, f"worker at {address}", self._timeout, self._credentials
                )
            now = self._workers[address].observe()
        except ClusterError as error:
            if (worker := self._workers.pop(address, None)) is not None:
                worker.disconnect()
            self._last.pop(address, None)
            return Seen(address=address, observation=None, rates=Rates(), error=str(error))
        before, self._last[address] = self._last.get(address, now), now
        return Seen(address=address, observation=now, rates=rates(before, now))
