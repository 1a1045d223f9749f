# SPDX-License-Identifier: Apache-2.0
"""Why an alternative loses, in one line with the figures."""

from __future__ import annotations

from decnn_tvm.planning.estimates import Estimate
from decnn_tvm.planning.memory import IDLE_BYTES
from decnn_tvm.planning.speeds import Speeds
from decnn_tvm.quantities import format_rate
from decnn_tvm.transfers import HOST

MEGA = 1e6
MARGIN = 1.05
"""Several devices must be so many times as good as one: less is within what a simulation errs."""


def why_it_loses(found: Estimate, winner: Estimate | None, speeds: Speeds, goal: str) -> str:
    """Return why `found` loses to `winner`; None where it does not fit the devices' memory."""
    if winner is None:
        return _memory(found, speeds)
    if (gain := _gain(found, winner, goal)) > 1:
        return f"{gain - 1:.1%} better than the winner: {MARGIN - 1:.0%} are wanted of a split"
    if goal == "latency":
        times = found.latency_seconds / winner.latency_seconds
        return f"{times:.2f} times as long: {_where_time_goes(found, speeds)}"
    times = winner.samples_per_second / found.samples_per_second
    return f"the winner gives {times:.2f} times as many: {_what_bounds(found, speeds)}"


def refusal(
    best: Estimate | None, single: Estimate, speeds: Speeds, goal: str, *, fits: bool
) -> str:
    """Return why several devices are not worth it, or why nothing can be had.

    Parameters
    ----------
    best : Estimate, optional
        The best of those on several devices; None where there is none.
    single : Estimate
        One device alone.
    speeds : Speeds
        The cluster.
    goal : str
        What is to be good.
    fits : bool
        Whether one device holds the network.
    """
    name = speeds.machines.devices[single.ranks[0]].name
    alone, remedy = _figure(single, goal), "Run it on one device (--strategy single)"
    if not fits:
        return (
            f"nothing fits the devices' memory: {_memory(single, speeds)} Give the workers more "
            "memory, or decouple the network into more groups."
        )
    if best is None:
        return f"no split over several devices can be had: {name} alone {alone}. {remedy}."
    gain = _gain(best, single, goal)
    text = (
        f"{name} alone {alone}, the best of several ({best.alternative.name} on "
        f"{len(best.ranks)} devices, {best.wire}) {_figure(best, goal)}"
    )
    if gain > 1:
        text = (
            f"several devices gain too little: {text}: {gain - 1:.1%} better, and a simulation "
            f"errs by {MARGIN - 1:.0%}"
        )
    else:
        text = f"one device is as fast or faster: {text}"
    return f"{text}; {_where_time_goes(best, speeds)}. {remedy}, or use faster links."


def _gain(found: Estimate, other: Estimate, goal: str) -> float:
    """Return how many times as good one is as another."""
    if goal == "latency":
        return other.latency_seconds / found.latency_seconds
    return found.samples_per_second / other.samples_per_second


def _figure(found: Estimate, goal: str) -> str:
    if goal == "latency":
        return f"takes {1e3 * found.latency_seconds:.2f} ms"
    return f"gives {found.samples_per_second:.2f} samples/s"


def _memory(found: Estimate, speeds: Speeds) -> str:
    for rank, memory in zip(found.ranks, found.memory, strict=True):
        device = speeds.machines.devices[rank]
        total = memory.total + IDLE_BYTES
        if device.memory_bytes is not None and total > device.memory_bytes:
            return (
                f"{device.name} would need {total / MEGA:.0f} MB (weights "
                f"{memory.weights / MEGA:.0f}), and may take {device.memory_bytes / MEGA:.0f}."
            )
    return "it fits."


def _where_time_goes(found: Estimate, speeds: Speeds) -> str:
    """Return what one sample's time is spent on."""
    if len(found.ranks) == 1 or found.alternative.strategy == "replicas":
        return "a sample is one device's work"
    compute = max(found.compute_seconds)
    if found.alternative.strategy == "pipeline":
        return f"{len(found.ranks)} devices work one after another on a sample"
    busy = compute / found.latency_seconds
    if busy > 0.7:
        return f"the busiest device computes {1e3 * compute:.1f} ms of it"
    return (
        f"{1 - busy:.0%} of it is moving data: {found.exchanges} exchanges, and "
        f"{_busiest_port(found, speeds)}"
    )


def _what_bounds(found: Estimate, speeds: Speeds) -> str:
    """Return what keeps its rate down."""
    period = 1 / found.samples_per_second
    compute = max(found.compute_seconds)
    message = max(*found.message_seconds, found.host_message_seconds)
    port = found.busiest_port[1].busy_seconds
    if len(found.ranks) == 1 and compute >= max(message, port):
        return f"one device computes {1e3 * compute:.1f} ms a sample"
    if compute >= max(message, port, 0.5 * period):
        return f"the busiest device computes {1e3 * compute:.1f} ms of {1e3 * period:.1f}"
    if message > port:
        return f"messages take {1e3 * message:.1f} ms of a processor, of {1e3 * period:.1f}"
    return f"{1e3 * port:.1f} ms of {1e3 * period:.1f} pass while {_busiest_port(found, speeds)}"


def _busiest_port(found: Estimate, speeds: Speeds) -> str:
    """Return what the busiest port, the coordinator's among them, has to do for a sample."""
    rank, port = found.busiest_port
    name = "the coordinator" if rank == HOST else speeds.machines.devices[rank].name
    does = "sends" if port.sending_seconds >= port.receiving_seconds else "takes in"
    rate = (
        f" at {format_rate(8 * port.busy_bytes / port.busy_seconds)}" if port.busy_seconds else ""
    )
    return f"{name} {does} {port.busy_bytes / MEGA:.2f} MB{rate}"
