# SPDX-License-Identifier: Apache-2.0
"""Heartbeats: who was heard when, and whether frames got lost.

A heartbeat travels on the data plane behind the messages before it and says how many those were,
so a receiver that has counted fewer knows that some are lost or were damaged. It also carries
what the sender misses of others, and what it has computed. The transport's threads send and take
in heartbeats, so a device that computes is not silent.

How long a peer may be silent follows what was seen of it: `PATIENCE` times the longest pause of the
last seconds, at least as many beats, and at most `Policy.silence`, with which everybody begins. On
a quiet machine a loss is so seen in 0.4 s, and a busy one keeps its full second. What a large
message takes on its way comes on top, see `decnn_tvm.runtime.transit`.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import struct
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from decnn_tvm.runtime.policy import Policy
from decnn_tvm.runtime.transit import PATIENCE, Transit, transits
from decnn_tvm.runtime.wire import (
    HEARTBEAT,
    Buffer,
    Header,
    Message,
    WireError,
    encode,
)

logger = logging.getLogger(__name__)

MEMORY = 5.0
"""Seconds in which a pause that was seen fades to a third."""

_LAYOUT = struct.Struct("<QQdHH")
_RANK = struct.Struct("<i")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """What a heartbeat says.

    Attributes
    ----------
    sent : int
        Messages that were sent to its receiver in this epoch, heartbeats not counted.
    samples : int
        Samples that the sender has finished since its session began.
    seconds : float
        Seconds that it spent in stages.
    silent : tuple of int
        Peers that the sender does not hear.
    short : tuple of int
        Peers that say they have sent more than the sender got.
    """

    sent: int = 0
    samples: int = 0
    seconds: float = 0.0
    silent: tuple[int, ...] = ()
    short: tuple[int, ...] = ()

    def encode(self) -> bytes:
        """Return the payload of the heartbeat."""
        head = _LAYOUT.pack(
            self.sent, self.samples, self.seconds, len(self.silent), len(self.short)
        )
        return head + b"".join(_RANK.pack(rank) for rank in (*self.silent, *self.short))

    @staticmethod
    def decode(payload: bytes) -> Pulse:
        """Read what `encode` wrote; raise `WireError` on anything else."""
        if len(payload) < _LAYOUT.size:
            raise WireError(f"heartbeat of {len(payload)} bytes; expected {_LAYOUT.size} or more")
        sent, samples, seconds, silent, short = _LAYOUT.unpack_from(payload)
        if len(payload) != _LAYOUT.size + _RANK.size * (silent + short):
            raise WireError(f"heartbeat of {len(payload)} bytes with {silent + short} ranks")
        ranks = tuple(r for (r,) in _RANK.iter_unpack(payload[_LAYOUT.size :]))
        return Pulse(
            sent=sent, samples=samples, seconds=seconds, silent=ranks[:silent], short=ranks[silent:]
        )


@dataclass(slots=True)
class _Epoch:
    """What one epoch's watch has seen; another one takes its place as a whole."""

    header: Header
    heard: dict[int, float]
    received: dict[int, int] = field(default_factory=dict)
    pulses: dict[int, Pulse] = field(default_factory=dict)
    transits: Mapping[int, Transit] = field(default_factory=dict)
    grace: float = 0.0


class Watch:
    """One rank's view of its peers.

    Time is that of the thread that receives: where the whole process stood still, what waits to
    be received is received before anybody is called silent.

    Parameters
    ----------
    policy : Policy
        How often to beat, and when a peer counts as silent.
    progress : callable, optional
        Gives the samples finished and the seconds in stages of this rank.
    clock : callable
        Seconds.
    """

    def __init__(
        self,
        policy: Policy,
        progress: Callable[[], tuple[int, float]] = lambda: (0, 0.0),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.policy, self.progress, self.clock = policy, progress, clock
        self.damaged = 0
        self._now = clock()
        self._epoch: _Epoch | None = None
        self._sent: dict[int, int] = {}
        self._counted: _Epoch | None = None
        self._pauses: dict[int, float] = {}

    def begin(
        self, header: Header, peers: Iterable[int], sizes: Mapping[int, int] | None = None
    ) -> None:
        """Watch the peers of a new epoch.

        Parameters
        ----------
        header : Header
            That of this rank's messages.
        peers : iterable of int
            Their ranks.
        sizes : mapping of int to int, optional
            Bytes of the largest message from each of them.
        """
        heard = dict.fromkeys(peers, self.clock())
        under_way = transits(len(heard), sizes or {}, self.policy.slowest_link)
        self._epoch = _Epoch(header, heard, transits=under_way)

    def restart_counts(self) -> None:
        """Count the messages that are sent from 0; called by the thread that sends."""
        self._sent, self._counted = {}, self._epoch

    def wrote(self, target: int) -> None:
        """Count a message; called by the thread that sends."""
        self._sent[target] = self._sent.get(target, 0) + 1

    def listeners(self) -> list[int]:
        """Return the peers that get heartbeats."""
        epoch = self._epoch
        # A peer that has been silent for long gets none: what is sent to it would pile up.
        limit = self._now - 10 * self.policy.silence
        return [] if epoch is None else [r for r, at in list(epoch.heard.items()) if at > limit]

    def beat(self, rank: int) -> list[Buffer]:
        """Return the frames of a heartbeat for a listener; called by the thread that sends."""
        epoch = self._epoch
        assert epoch is not None
        samples, seconds = self.progress()
        # Between the beginning of an epoch and its first count, those are of the one before.
        sent = self._sent if self._counted is epoch else {}
        pulse = Pulse(
            sent=sent.get(rank, 0),
            samples=samples,
            seconds=seconds,
            silent=self.silent(),
            short=self.short(),
        )
        header = dataclasses.replace(epoch.header, movement=HEARTBEAT, target=rank)
        return encode(header, [pulse.encode()])

    def tick(self) -> None:
        """Note that time goes on; called often by the thread that receives."""
        now = self.clock()
        epoch = self._epoch
        shortest = min(self.policy.silence, PATIENCE * self.policy.beat)
        if epoch is not None and now - self._now > shortest / 2:
            epoch.heard.update(dict.fromkeys(epoch.heard, now))
            epoch.grace = now + shortest
        self._now = now

    def admit(self, message: Message | WireError) -> bool:
        """Take notice of what came; return whether it is for the engine.

        Damage and strangers are dropped: what is missing then shows at the next heartbeat.
        """
        epoch = self._epoch
        if epoch is None:
            # A peer that has begun earlier beats already.
            return isinstance(message, WireError) or message.header.movement != HEARTBEAT
        if isinstance(message, WireError) or not _is_for(epoch.header, message.header):
            self.damaged += 1
            logger.debug("dropped what came: %s", message)
            return False
        header = message.header
        if header.source not in epoch.heard:
            self.damaged += 1
            logger.debug("dropped a message of %d, who is no peer", header.source)
            return False
        current = header.epoch == epoch.header.epoch
        pause = self._hear(epoch, header.source)
        if header.movement == HEARTBEAT:
            if current:
                self._take_pulse(epoch, message)
            return False
        if current:
            epoch.received[header.source] = epoch.received.get(header.source, 0) + 1
            if (transit := epoch.transits.get(header.source)) is not None:
                transit.see(message.nbytes, pause - self.policy.beat)
        # Of a later epoch nothing is sent before everybody has begun it.
        return header.epoch <= epoch.header.epoch

    def silent(self) -> tuple[int, ...]:
        """Return the peers that have not been heard for too long."""
        epoch = self._epoch
        if epoch is None:
            return ()
        return tuple(
            rank
            for rank, heard in list(epoch.heard.items())
            if self._now - heard > self._allowed(epoch, rank)
        )

    def short(self) -> tuple[int, ...]:
        """Return the peers of whose messages some are missing."""
        epoch = self._epoch
        if epoch is None:
            return ()
        return tuple(
            rank
            for rank, pulse in list(epoch.pulses.items())
            if pulse.sent > epoch.received.get(rank, 0)
        )

    def pulses(self) -> Mapping[int, Pulse]:
        """Return each peer's last heartbeat; none where this process has just stood still."""
        epoch = self._epoch
        return {} if epoch is None or self._now < epoch.grace else dict(epoch.pulses)

    def unheard(self, rank: int) -> float:
        """Return for how many seconds a peer has not been heard."""
        epoch = self._epoch
        return 0.0 if epoch is None else self._now - epoch.heard.get(rank, self._now)

    def _hear(self, epoch: _Epoch, rank: int) -> float:
        """Note that a peer is heard; return for how many seconds it was not."""
        pause = self._now - epoch.heard[rank]
        before = self._pauses.get(rank, self.policy.silence / PATIENCE)
        self._pauses[rank] = max(pause, before * math.exp(-pause / MEMORY))
        epoch.heard[rank] = self._now
        return pause

    def _allowed(self, epoch: _Epoch, rank: int) -> float:
        """Return for how many seconds a peer may be silent now."""
        pause = self._pauses.get(rank, self.policy.silence)
        usual = min(self.policy.silence, PATIENCE * max(pause, self.policy.beat))
        transit = epoch.transits.get(rank)
        return usual if transit is None else usual + transit.allowed

    def _take_pulse(self, epoch: _Epoch, message: Message) -> None:
        try:
            pulse = Pulse.decode(b"".join(message.payload))
        except WireError as error:
            self.damaged += 1
            logger.debug("dropped a heartbeat: %s", error)
            return
        epoch.pulses[message.header.source] = pulse


def _is_for(own: Header, other: Header) -> bool:
    """Tell whether a message of another rank is of our cluster and meant for us."""
    return other.cluster == own.cluster and other.target == own.source
