# SPDX-License-Identifier: Apache-2.0
"""A cluster as the simulator sees it: devices, links, and what a message costs.

Every device has one port, which sends one message after another and, at the same time, receives
one after another. A message of n bytes takes ``n / bandwidth`` of the sender's port, is under way
for `Link.latency_seconds`, and takes ``n / bandwidth`` of the receiver's port; the two overlap, so
that alone on a link it takes ``latency + n / bandwidth``. Before and after that it takes time of
the processors (checksum, copies, the system's network code, encryption), which stages lose. So does
a part of a value that stays where it is, and is copied.

A port may have a bandwidth of its own. One that is faster than its links, as that of a coordinator
on Gigabit beside boards on Fast Ethernet, is busy for less and serves several links at a time, as a
switch that stores messages lets it; what it has put on a link is not overtaken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from decnn_tvm.errors import InputError
from decnn_tvm.transfers import HOST


def _check(name: str, what: str, value: float) -> None:
    if not (math.isfinite(value) and value >= 0):
        raise InputError(f"{name}: {what} is {value}; expected a number of at least 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device, or the coordinator.

    Attributes
    ----------
    name : str
        What reports call it.
    memory_bytes : int, optional
        What its worker process may take, with what it takes idle.
    seconds_per_message, seconds_per_byte : float
        Processor time that a message takes at either end.
    port_bytes_per_second : float, optional
        Of its port, in each direction; None where that is as fast as its links.
    """

    name: str
    memory_bytes: int | None = None
    seconds_per_message: float = 0.0
    seconds_per_byte: float = 0.0
    port_bytes_per_second: float | None = None

    def __post_init__(self) -> None:
        _check(self.name, "seconds_per_message", self.seconds_per_message)
        _check(self.name, "seconds_per_byte", self.seconds_per_byte)
        _check(self.name, "port_bytes_per_second", self.port_bytes_per_second or 0.0)

    def message_seconds(self, size: int) -> float:
        """Return the processor time that a message of `size` bytes takes."""
        return self.seconds_per_message + self.seconds_per_byte * size

    def port_seconds_per_byte(self, link: Link) -> float:
        """Return how long its port is busy with a byte for a link."""
        return 1.0 / (self.port_bytes_per_second or link.bytes_per_second)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A connection of two devices, the same in both directions."""

    bytes_per_second: float
    latency_seconds: float = 0.0

    def __post_init__(self) -> None:
        if not self.bytes_per_second > 0:
            raise InputError(f"link of {self.bytes_per_second} bytes/s: expected more than 0.")
        _check("link", "latency_seconds", self.latency_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Machines:
    """The devices of a cluster by rank, the coordinator, and how they are linked.

    Attributes
    ----------
    devices : tuple of Device
        By rank.
    link : Link
        Every link that is not in `links`.
    host : Device
        The coordinator.
    links : mapping of (int, int) to Link
        By two ranks, of which `HOST` may be one; the order does not matter.
    """

    devices: tuple[Device, ...]
    link: Link
    host: Device = Device(name="coordinator")
    links: Mapping[tuple[int, int], Link] = field(default_factory=dict)

    @staticmethod
    def alike(count: int, link: Link, device: Device | None = None) -> Machines:
        """Return `count` equal devices on equal links."""
        device = device or Device(name="device")
        return Machines(devices=(device,) * count, link=link)

    def device(self, rank: int) -> Device:
        """Return a device, or the coordinator for `HOST`."""
        return self.host if rank == HOST else self.devices[rank]

    def link_of(self, one: int, other: int) -> Link:
        """Return the link between two ranks."""
        return self.links.get((one, other)) or self.links.get((other, one)) or self.link

    def chosen(self, ranks: tuple[int, ...]) -> Machines:
        """Return the cluster of these devices alone, in this order."""
        places = {HOST: HOST, **{rank: place for place, rank in enumerate(ranks)}}
        links = {
            (places[a], places[b]): link
            for (a, b), link in self.links.items()
            if a in places and b in places
        }
        devices = tuple(self.devices[rank] for rank in ranks)
        return Machines(devices=devices, link=self.link, host=self.host, links=links)
