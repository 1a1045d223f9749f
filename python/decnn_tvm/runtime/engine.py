# SPDX-License-Identifier: Apache-2.0
"""The loop of one device: take in what arrived, run the oldest ready stage, send.

One thread computes; the transport's threads send and receive. A failure ends the loop and is
reported to the coordinator as a message, with its cause.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from decnn_tvm.runtime import log_context
from decnn_tvm.runtime.executor import Executor, Outgoing, StageRunner
from decnn_tvm.runtime.transport import Transport
from decnn_tvm.runtime.wire import (
    ERROR,
    HEADER_BYTES,
    MAX_ERROR,
    Buffer,
    Header,
    Message,
    WireError,
    encode,
)
from decnn_tvm.transfers import HOST

logger = logging.getLogger(__name__)

TIMELINE = 8192
"""Intervals that the timeline remembers."""


@dataclass(frozen=True, slots=True)
class Interval:
    """What a rank did: `start` and `end` are seconds of `time.monotonic`.

    Attributes
    ----------
    kind : {"compute", "wait", "send", "receive"}
        A run of a stage; no stage ready while samples are under way; checksum and hand-over of a
        message, which the network then carries meanwhile; check and unpacking of one.
    sample : int
        The sample; for "wait" the oldest one under way.
    what : str
        The stage, the movement ``source -> target``, or empty for "wait".
    """

    kind: str
    sample: int
    what: str
    start: float
    end: float


@dataclass(slots=True)
class Counters:
    """What a rank did: seconds, samples, and bytes sent (headers included) per movement.

    `seconds` has the total of every kind of interval.
    """

    compute_seconds: float = 0.0
    wait_seconds: float = 0.0
    samples: int = 0
    sent_bytes: dict[int, int] = field(default_factory=dict)
    timeline: deque[Interval] = field(default_factory=lambda: deque(maxlen=TIMELINE))
    seconds: dict[str, float] = field(default_factory=dict)

    def note(self, kind: str, sample: int, what: str, start: float) -> float:
        """Append an interval that ends now to the timeline; return its seconds."""
        end = time.monotonic()
        self.timeline.append(Interval(kind, sample, what, start, end))
        self.seconds[kind] = self.seconds.get(kind, 0.0) + end - start
        return end - start


class Link:
    """A transport bound to one deployment: it writes headers and drops what is stale."""

    def __init__(self, transport: Transport, cluster: bytes, epoch: int, rank: int) -> None:
        self._transport, self._epoch = transport, epoch
        self._header = Header(
            cluster=cluster, epoch=epoch, sample=0, movement=0, source=rank, target=HOST
        )
        self.stale = 0

    @property
    def cluster(self) -> bytes:
        """The id of the deployment."""
        return self._header.cluster

    @staticmethod
    def of(transport: Transport, header: Header) -> Link:
        """Return the link of a rank whose messages have this header."""
        return Link(transport, header.cluster, header.epoch, header.source)

    def send(self, sample: int, movement: int, target: int, payload: Sequence[Buffer]) -> None:
        """Send a message."""
        header = dataclasses.replace(self._header, sample=sample, movement=movement, target=target)
        self._transport.send(target, encode(header, payload))

    def flush(self, executor: Executor, counters: Counters) -> None:
        """Send what `executor` has ready; the transport encodes it."""
        for out in executor.take_outgoing():
            frames = self._encoded(out, executor, counters)
            self._transport.send(out.target, frames, order=out.sample)
            size = HEADER_BYTES + sum(memoryview(part).nbytes for part in out.payload)
            counters.sent_bytes[out.movement] = counters.sent_bytes.get(out.movement, 0) + size

    def _encoded(self, out: Outgoing, executor: Executor, counters: Counters) -> Iterator[Buffer]:
        start = time.monotonic()
        header = dataclasses.replace(
            self._header, sample=out.sample, movement=out.movement, target=out.target
        )
        yield from encode(header, out.payload)
        counters.note("send", out.sample, str(executor.plan.movements[out.movement]), start)

    def receive(self, timeout: float, enough: int = 1) -> Message | None:
        """Return the next message of this deployment, or None after `timeout` seconds.

        Parameters
        ----------
        timeout : float
            Seconds.
        enough : int
            Messages that the caller needs; for fewer it need not be woken before the time is up.

        Raises
        ------
        WireError
            A message could not be sent, or one of a later epoch came.
        """
        while (message := self._transport.receive(timeout, enough)) is not None:
            if isinstance(message, WireError):
                raise message
            header = message.header
            ours = header.cluster == self._header.cluster and header.target == self._header.source
            if ours and header.epoch > self._epoch:
                raise WireError(f"epoch {header.epoch}; this deployment is {self._epoch}")
            if ours and header.epoch == self._epoch:
                return message
            self.stale += 1
        return None


class Engine:
    """The loop of one device.

    Parameters
    ----------
    executor : Executor
        The device's state.
    runner : StageRunner
        Runs a stage, such as a `decnn_tvm.runtime.library.StageLibrary`.
    link : Link
        Its end of the network.
    counters : Counters, optional
        Where to go on counting; from nothing by default.
    """

    def __init__(
        self,
        executor: Executor,
        runner: StageRunner,
        link: Link,
        counters: Counters | None = None,
    ) -> None:
        self.executor = executor
        self.counters = Counters() if counters is None else counters
        self._runner, self._link = runner, link
        self.failure: str | None = None

    def step(self, timeout: float) -> bool:
        """Take in messages and run one stage; wait `timeout` seconds where nothing is ready.

        Returns
        -------
        bool
            Whether anything happened.
        """
        busy = self._take_in()
        ready = self.executor.next_stage()
        if ready is None:
            busy = busy or self._wait(timeout)
        else:
            self._run(*ready)
        self._link.flush(self.executor, self.counters)
        return busy or ready is not None

    def loop(self, stopping: threading.Event, poll: float = 0.1) -> None:
        """Run until `stopping` is set or something fails; a failure goes to the coordinator."""
        try:
            while not stopping.is_set():
                self.step(poll)
        except Exception as error:  # whatever a stage raises must reach the coordinator
            logger.exception("the device stopped")
            self.failure = f"{type(error).__name__}: {error}"
            self._link.send(0, ERROR, HOST, [self.failure.encode()[:MAX_ERROR]])

    def status(self) -> dict[str, Any]:
        """Return what this device did, as JSON data."""
        return device_status(self.counters, self._runner, self)

    def _take_in(self) -> bool:
        busy = False
        while (message := self._link.receive(0.0)) is not None:
            self._accept(message)
            busy = True
        return busy

    def _accept(self, message: Message) -> None:
        start = time.monotonic()
        if self.executor.accept(message):
            what = str(self.executor.plan.movements[message.header.movement])
            self.counters.note("receive", message.header.sample, what, start)

    def _wait(self, timeout: float) -> bool:
        start, oldest = time.monotonic(), self.executor.oldest_open
        message = self._link.receive(timeout)
        if oldest is not None:
            self.counters.wait_seconds += self.counters.note("wait", oldest, "", start)
        if message is None:
            return False
        self._accept(message)
        self._take_in()
        return True

    def _run(self, sample: int, stage_index: int) -> None:
        stage = self.executor.plan.stages[stage_index]
        log_context.enter(self.executor.rank, sample, stage.function)
        start = time.monotonic()
        self.executor.run(sample, stage_index, self._runner)
        self.counters.compute_seconds += self.counters.note(
            "compute", sample, stage.function, start
        )
        log_context.leave()
        self.counters.samples += self.executor.is_last(sample, stage_index)


def device_status(counters: Counters, runner: object, engine: Engine | None) -> dict[str, Any]:
    """Return what a device did, as JSON data; one without channel groups has no engine."""
    return {
        "weight_bytes": getattr(runner, "weight_bytes", 0),
        "peak_bytes": 0,
        "sent_bytes": {str(i): count for i, count in list(counters.sent_bytes.items())},
        "compute_seconds": counters.compute_seconds,
        "wait_seconds": counters.wait_seconds,
        "samples": counters.samples,
        "failure": None if engine is None else engine.failure,
        "timeline": [dataclasses.astuple(i) for i in list(counters.timeline)],
    }
