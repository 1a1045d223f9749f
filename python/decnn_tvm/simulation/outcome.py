# SPDX-License-Identifier: Apache-2.0
"""What a simulation found."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from decnn_tvm.runtime.statistics import TimelineEvent
from decnn_tvm.simulation.port_load import PortLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A stream of samples, simulated from an idle cluster on.

    Attributes
    ----------
    started, finished : tuple of float
        Seconds at which each sample was submitted, and its result was there.
    window : int
        Samples under way at most.
    compute_seconds : tuple of float
        By rank: in stages, over all samples.
    message_seconds : tuple of float
        By rank: processor time for messages, over all samples.
    ports : tuple of PortLoad
        By rank: what went through the device's port, over all samples.
    host_message_seconds : float
        Processor time that messages took of the coordinator.
    host_port : PortLoad
        What went through the coordinator's port.
    buffer_bytes : tuple of int
        By rank: the most that tensors between stages took at once.
    timeline : tuple of TimelineEvent
        By start, where it was asked for. "send" and "receive" are the times that a message takes
        of the sender's and the receiver's port.
    events : int
        Events that were simulated: what the simulation itself cost.
    """

    started: tuple[float, ...]
    finished: tuple[float, ...]
    window: int
    compute_seconds: tuple[float, ...]
    message_seconds: tuple[float, ...]
    ports: tuple[PortLoad, ...]
    host_message_seconds: float
    host_port: PortLoad
    buffer_bytes: tuple[int, ...]
    timeline: tuple[TimelineEvent, ...]
    events: int

    @property
    def sent_bytes(self) -> tuple[float, ...]:
        """Bytes that each device sent, headers included, over all samples."""
        return tuple(port.sent_bytes for port in self.ports)

    @property
    def host_sent_bytes(self) -> float:
        """The same for the coordinator."""
        return self.host_port.sent_bytes

    @property
    def samples(self) -> int:
        """How many samples were simulated."""
        return len(self.finished)

    @property
    def latency_seconds(self) -> float:
        """Median from the submission of a sample to its result, with `window` under way."""
        return statistics.median(b - a for a, b in zip(self.started, self.finished, strict=True))

    @property
    def samples_per_second(self) -> float:
        """Results per second in full swing: between those that a full window surrounds.

        Where fewer samples than that were simulated, all of them count, from an idle cluster on.
        """
        delivered = _in_order(self.finished)
        # Results may leave a window at a time, so that only whole windows tell the rate.
        first = self.window - 1
        last = first + (len(delivered) // self.window - 2) * self.window
        if last > first:
            return (last - first) / (delivered[last] - delivered[first])
        return len(delivered) / delivered[-1]

    @property
    def sent_bytes_per_sample(self) -> float:
        """Bytes that the busiest device sends for a sample."""
        return max(self.sent_bytes, default=0) / self.samples


def _in_order(finished: tuple[float, ...]) -> list[float]:
    """Return when each result left, since results leave in the order of their samples."""
    left: list[float] = []
    for moment in finished:
        left.append(max(moment, left[-1] if left else 0.0))
    return left
