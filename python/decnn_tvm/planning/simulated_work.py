# SPDX-License-Identifier: Apache-2.0
"""What a simulation would have to play: samples, and messages, told from placements alone.

An exchange of all with all among n devices is n (n - 1) messages, so that a dense network split by
channels over 64 devices has 200,000 of them for a sample: minutes to simulate, and hopeless to run.
"""

from __future__ import annotations

from decnn_tvm.plan import Host, Owned, Placement, Plan, Replicated, Strips

WINDOWS = (2, 4, 8)
"""Samples under way that are tried, and for replicas as many for each device."""
FULL_SWING = 3
"""Windows of samples that are simulated for a rate."""
MOST_MESSAGES = 200_000
"""Messages that are simulated at most for a rate: some 2 s, at 10 us for each."""


def samples_for(window: int) -> int:
    """Return how many samples are simulated for a rate."""
    return (FULL_SWING + 2) * window


def messages_of(plan: Plan, devices: int) -> int:
    """Return how many messages a sample takes, at most about, among so many devices.

    Parameters
    ----------
    plan : Plan
        The network split in the same way, for so many devices or for fewer.
    devices : int
        How many there are.
    """
    taking_part = 1 if plan.strategy == "replicas" else devices
    return sum(
        _messages(plan.value(m.source).placement, plan.value(m.target).placement, taking_part)
        for m in plan.movements
        if m.kind != "local"
    )


def _messages(source: Placement, target: Placement, devices: int) -> int:
    if isinstance(source, Strips) and isinstance(target, Strips):
        return 2 * (devices - 1)  # from the neighbours
    senders = 1 if isinstance(source, Host | Owned | Replicated) else devices
    receivers = 1 if isinstance(target, Host | Owned) else devices
    if senders == receivers == devices > 1:
        return devices * (devices - 1)
    return senders * receivers


def too_many(messages: int, samples: int, devices: int) -> str:
    """Return why so many messages a sample are not simulated; empty where they are."""
    if messages * samples <= MOST_MESSAGES:
        return ""
    return (
        f"not simulated: among {devices} devices a sample takes about {messages:,} messages, and "
        f"{samples:,} samples are more than the {MOST_MESSAGES:,} messages that are played at most."
    )
