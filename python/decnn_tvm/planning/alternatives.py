# SPDX-License-Identifier: Apache-2.0
"""The ways to use several devices that a planner weighs; one more is one more entry."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from decnn_tvm.decoupling import decouple
from decnn_tvm.errors import DecoupleError
from decnn_tvm.network import Network
from decnn_tvm.plan import Strategy
from decnn_tvm.planning.shares import (
    MAX_TOTAL,
    UNEVEN,
    capped_shares,
    proportional_shares,
    share_choices,
)
from decnn_tvm.presets import PRESETS

logger = logging.getLogger(__name__)

WIDTH = 1.5
"""Width of a network that no published structure fits, once it is decoupled."""


Caps: TypeAlias = "Sequence[float] | None"
"""What part of all groups each device may have; None: as much as you like."""
Shares: TypeAlias = Callable[[Sequence[float], Caps], list[tuple[int, ...]]]
"""``shares(speeds, caps)``: what is worth a look on devices of these speeds, if anything is.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """One way.

    Attributes
    ----------
    name : str
        What people call it.
    strategy : str
        What `decnn_tvm.compile` calls it.
    network : Network
        What runs so: the network that was given, or a decoupled one made from it.
    trained : bool
        Whether it computes what the given network does, and needs no training.
    shares : callable
        See `Shares`.
    reason : str
        Why it can't be had; empty where it can.
    """

    name: str
    strategy: Strategy
    network: Network
    trained: bool
    shares: Shares
    reason: str = ""


def alternatives(network: Network, devices: int, *, exact: bool, uneven: bool) -> list[Alternative]:
    """Return the ways to run a network on up to `devices` devices.

    Parameters
    ----------
    network : Network
        Dense or decoupled.
    devices : int
        How many there are.
    exact : bool
        Leave out what needs training.
    uneven : bool
        Whether the devices' speeds differ.
    """
    groups = network.groups

    def own(name: str, strategy: Strategy, shares: Shares = _several) -> Alternative:
        return Alternative(
            name=name, strategy=strategy, network=network, trained=True, shares=shares
        )

    found = [own("one device", "single", _one)]
    if devices == 1:
        return found
    found += [
        own("replicas", "replicas", _turns),
        own("layer pipeline", "pipeline", _stages),
        own("row strips", "rows"),
    ]
    if groups is not None:
        return [*found, _by_groups("decoupled", network, groups, trained=True)]
    found.append(own("exact channel split", "channels"))
    return found if exact else [*found, *_decoupled(network, devices, uneven)]


def _by_groups(name: str, network: Network, groups: int, *, trained: bool) -> Alternative:
    def shares(speeds: Sequence[float], caps: Caps) -> list[tuple[int, ...]]:
        if not 1 < len(speeds) <= groups:
            return []
        return share_choices(speeds, groups=groups, caps=caps)

    return Alternative(
        name=name, strategy="channels", network=network, trained=trained, shares=shares
    )


def _decoupled(network: Network, devices: int, uneven: bool) -> list[Alternative]:
    """Return decoupled versions: the published ones that fit, or else wider by `WIDTH`."""
    found = []
    for name in PRESETS if devices <= 4 else ():
        try:
            made = decouple(network, preset=name)
        except DecoupleError as error:
            logger.debug("%s: no structure for %s: %s", name, network.name, error)
            continue
        found.append(_trained_anew(f"decoupled, {name}", made))
    # With more groups, channels that divide by them all make a larger network.
    wanted = [min(devices, MAX_TOTAL)] if not found or devices != 4 else []
    wanted += [2 * devices] if uneven and 2 * devices <= MAX_TOTAL else []
    return found + [_wider(network, groups) for groups in wanted]


def _wider(network: Network, groups: int) -> Alternative:
    """Return a network decoupled into as many groups, or why it can't be."""
    name = f"decoupled, G={groups} x{WIDTH:g}"
    try:
        return _trained_anew(name, decouple(network, groups=groups, width=WIDTH))
    except DecoupleError as error:
        logger.debug("%s: %s", name, error)
        return _not_there(name, network, str(error))


def _trained_anew(name: str, decoupled: Network) -> Alternative:
    groups = decoupled.groups
    assert groups is not None
    return _by_groups(name, Network(name, decoupled.module), groups, trained=False)


def _not_there(name: str, network: Network, reason: str) -> Alternative:
    return Alternative(
        name=name,
        strategy="channels",
        network=network,
        trained=False,
        shares=lambda speeds, caps: [],
        reason=reason,
    )


def _one(speeds: Sequence[float], caps: Caps) -> list[tuple[int, ...]]:
    return [(1,)] if len(speeds) == 1 else []


def _several(speeds: Sequence[float], caps: Caps) -> list[tuple[int, ...]]:
    return share_choices(speeds, caps=caps) if len(speeds) > 1 else []


def _turns(speeds: Sequence[float], caps: Caps) -> list[tuple[int, ...]]:
    """Return turns of replicas; however few, a device holds the whole network for them."""
    return _several(speeds, None) if caps is None else []


def _stages(speeds: Sequence[float], caps: Caps) -> list[tuple[int, ...]]:
    """Return stages of a pipeline; more of them than devices are balanced better."""
    count = len(speeds)
    if count < 2:
        return []
    if caps is not None:
        capped = capped_shares(3 * count, speeds, caps)
        return [] if capped is None else [capped]
    even = max(speeds) <= UNEVEN * min(speeds)
    return [(1,) * count, *([] if even else [proportional_shares(3 * count, speeds)])]
