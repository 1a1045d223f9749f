# SPDX-License-Identifier: Apache-2.0
"""Messages on their way: through a processor, a port, a link, a port and a processor.

What a message costs a device's processors comes off its stages: one under way ends so much later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

from decnn_tvm.runtime.statistics import EventKind
from decnn_tvm.simulation.events import Events
from decnn_tvm.simulation.machines import Device, Machines
from decnn_tvm.simulation.port_load import PortLoad
from decnn_tvm.simulation.ports import Message, OutPort

Note: TypeAlias = Callable[[int, EventKind, int, int, float, float], None]
"""``note(rank, kind, sample, movement, start, end)``: told of what a port does."""


class Node:
    """A device, or the coordinator, as the network sees it.

    Attributes
    ----------
    stage_end : float or None
        When the stage under way ends; None where none is.
    message_seconds : float
        Processor time that messages took.
    sent_bytes, received_bytes : int
        Headers included.
    sending_seconds, receiving_seconds : float
        How long its port was busy with them.
    """

    def __init__(self, device: Device) -> None:
        self.device = device
        self.stage_end: float | None = None
        self.message_seconds = self.sending_seconds = self.receiving_seconds = 0.0
        self.sent_bytes = self.received_bytes = 0
        self.out, self.out_free, self.in_free = OutPort(), 0.0, 0.0
        self.waking = False
        self._processor_free = 0.0

    @property
    def port_load(self) -> PortLoad:
        """What went through its port."""
        return PortLoad(
            sent_bytes=self.sent_bytes,
            received_bytes=self.received_bytes,
            sending_seconds=self.sending_seconds,
            receiving_seconds=self.receiving_seconds,
        )

    def backlog(self, now: float) -> float:
        """Return the processor time of messages that is still to be spent."""
        return max(0.0, self._processor_free - now)

    def occupy(self, now: float, size: int) -> float:
        """Return when the processor has dealt with a message; a stage under way is delayed."""
        seconds = self.device.message_seconds(size)
        if not seconds:
            return now
        self._processor_free = max(now, self._processor_free) + seconds
        self.message_seconds += seconds
        if self.stage_end is not None:
            self.stage_end += seconds
        return self._processor_free


class _Way(NamedTuple):
    """From one machine to another: seconds of latency, and seconds per byte on each part."""

    latency: float
    sending: float
    passing: float
    receiving: float


class Network:
    """Brings messages from node to node.

    Parameters
    ----------
    events : Events
        Where it puts what is to happen.
    machines : Machines
        Has the links.
    nodes : mapping of int to Node
        By rank.
    deliver : callable
        Given each message that has arrived.
    note : callable
        See `Note`.
    """

    def __init__(
        self,
        events: Events,
        machines: Machines,
        nodes: Mapping[int, Node],
        deliver: Callable[[Message], None],
        note: Note,
    ) -> None:
        self._events, self._machines, self._nodes = events, machines, nodes
        self._deliver, self._note = deliver, note
        self._ways: dict[tuple[int, int], _Way] = {}

    def send(self, message: Message) -> None:
        """Have the processor, then the port, deal with a message."""
        node, now = self._nodes[message.source], self._events.now
        node.sent_bytes += message.size
        ready = node.occupy(now, message.size)
        if ready > now:
            self._events.at(ready, self._queue, message)
        else:
            self._queue(message)

    def _queue(self, message: Message) -> None:
        node = self._nodes[message.source]
        node.out.put(message)
        self._transmit(node)

    def _transmit(self, node: Node) -> None:
        """Send what is next if the port is free, or else once it is."""
        if node.out_free <= self._events.now:
            self._put_on_wire(node, node.out.take())
        if node.out and not node.waking:
            node.waking = True
            self._events.at(node.out_free, self._wake, node)

    def _wake(self, node: Node) -> None:
        node.waking = False
        if node.out:
            self._transmit(node)

    def _put_on_wire(self, node: Node, message: Message) -> None:
        way = self._way(message)
        now, seconds = self._events.now, message.size * way.sending
        node.sending_seconds += seconds
        node.out_free = now + seconds
        self._note(message.source, "send", message.sample, message.movement, now, node.out_free)
        self._events.at(now + way.latency, self._begin_to_arrive, message)

    def _begin_to_arrive(self, message: Message) -> None:
        node = self._nodes[message.target]
        way, now = self._way(message), self._events.now
        start, seconds = max(now, node.in_free), message.size * way.receiving
        node.received_bytes += message.size
        node.receiving_seconds += seconds
        node.in_free = start + seconds
        # A fast port is free for others while the rest of the message is on its way.
        end = max(node.in_free, now + message.size * way.passing)
        self._note(message.target, "receive", message.sample, message.movement, start, end)
        self._events.at(end, self._take_in, message)

    def _take_in(self, message: Message) -> None:
        done = self._nodes[message.target].occupy(self._events.now, message.size)
        if done > self._events.now:
            self._events.at(done, self._deliver, message)
        else:
            self._deliver(message)

    def _way(self, message: Message) -> _Way:
        ends = (message.source, message.target)
        found = self._ways.get(ends)
        if found is None:
            link = self._machines.link_of(*ends)
            sending, receiving = (
                self._nodes[rank].device.port_seconds_per_byte(link) for rank in ends
            )
            found = self._ways[ends] = _Way(
                latency=link.latency_seconds,
                sending=sending,
                passing=max(sending, 1.0 / link.bytes_per_second),
                receiving=receiving,
            )
        return found
