# SPDX-License-Identifier: Apache-2.0
"""What a worker shows to whoever may ask: state, progress, memory, traffic; no data and no secret.

Counters only grow within a session, so that any number of observers can ask at their own pace, and
two observations give the rates between them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

from decnn_tvm.plan import Indices
from decnn_tvm.transfers import HOST

WorkerStatus: TypeAlias = Literal["idle", "loading", "running", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """A worker at one moment.

    Attributes
    ----------
    at : float
        Seconds of the worker's own clock (`time.monotonic`).
    state : {"idle", "loading", "running", "failed"}
        No session; a session whose package is on its way; one at work; one that failed.
    session : int
        How many sessions there were; counters start again with each.
    model : str
        The network, empty while idle.
    rank : int or None
        The worker's rank in the session.
    groups : tuple of int
        Its channel groups.
    samples, open_samples : int
        Samples it has finished, and those under way.
    compute_seconds, wait_seconds, transfer_seconds : float
        Time in stages; without a ready stage while samples were under way; packing, checking and
        unpacking messages, part of which another thread does meanwhile.
    resident_bytes, weight_bytes : int
        Memory of the process, and of its packed weights.
    sent_bytes, received_bytes : dict of int to int
        Headers included, by the rank of the peer.
    refused_messages, refused_clients : int
        Messages that were no whole message of this session; connections that were turned away.
    failure : str
        Why the session failed, empty otherwise.
    """

    at: float
    state: WorkerStatus
    session: int = 0
    model: str = ""
    rank: int | None = None
    groups: Indices = ()
    samples: int = 0
    open_samples: int = 0
    compute_seconds: float = 0.0
    wait_seconds: float = 0.0
    transfer_seconds: float = 0.0
    resident_bytes: int = 0
    weight_bytes: int = 0
    sent_bytes: dict[int, int] = field(default_factory=dict)
    received_bytes: dict[int, int] = field(default_factory=dict)
    refused_messages: int = 0
    refused_clients: int = 0
    failure: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Observation:
        """Read it back; JSON has made text of the ranks."""
        peers = {
            name: {int(rank): count for rank, count in data[name].items()}
            for name in ("sent_bytes", "received_bytes")
        }
        return Observation(**{**data, **peers, "groups": tuple(data["groups"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What happened between two observations, per second.

    Attributes
    ----------
    samples : float
        Samples finished.
    compute, wait, transfer : float
        Shares of the time.
    sent, received : dict of int to float
        Bytes by the rank of the peer.
    """

    samples: float = 0.0
    compute: float = 0.0
    wait: float = 0.0
    transfer: float = 0.0
    sent: dict[int, float] = field(default_factory=dict)
    received: dict[int, float] = field(default_factory=dict)


def rates(before: Observation, after: Observation) -> Rates:
    """Return the rates between two observations of one worker; nothing across sessions."""
    seconds = after.at - before.at
    if before.session != after.session or seconds <= 0:
        return Rates()

    def by_peer(old: dict[int, int], new: dict[int, int]) -> dict[int, float]:
        return {rank: (count - old.get(rank, 0)) / seconds for rank, count in new.items()}

    return Rates(
        samples=(after.samples - before.samples) / seconds,
        compute=(after.compute_seconds - before.compute_seconds) / seconds,
        wait=(after.wait_seconds - before.wait_seconds) / seconds,
        transfer=(after.transfer_seconds - before.transfer_seconds) / seconds,
        sent=by_peer(before.sent_bytes, after.sent_bytes),
        received=by_peer(before.received_bytes, after.received_bytes),
    )


def peer_name(rank: int) -> str:
    """Return what a peer is called: ``host`` for the coordinator, its rank otherwise."""
    return "host" if rank == HOST else str(rank)
