# SPDX-License-Identifier: Apache-2.0
"""The ways to use several devices that a planner weighs; one more is one more entry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from decnn_tvm.decoupling import decouple
from decnn_tvm.errors import DecoupleError
from decnn_tvm.network import Network
from decnn_tvm.plan import Strategy
from decnn_tvm.planning.shares import MAX_TOTAL, UNEVEN, proportional_shares, share_choices
from decnn_tvm.presets import PRESETS

WIDTH = 1.5
"""Width of a network that no published structure fits, once it is decoupled."""


Shares: TypeAlias = Callable[[Sequence[float]], list[tuple[int, ...]]]
"""``shares(speeds)``: what is worth a look on devices of these speeds, nothing if it can't be."""


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
    """

    name: str
    strategy: Strategy
    network: Network
    trained: bool
    shares: Shares


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
    for made in () if exact else _decoupled(network, devices, uneven):
        count = made.groups
        if count is not None:
            found.append(_by_groups(made.name, made, count, trained=False))
    return found


def _by_groups(name: str, network: Network, groups: int, *, trained: bool) -> Alternative:
    def shares(speeds: Sequence[float]) -> list[tuple[int, ...]]:
        return share_choices(speeds, groups=groups) if 1 < len(speeds) <= groups else []

    return Alternative(
        name=name, strategy="channels", network=network, trained=trained, shares=shares
    )


def _decoupled(network: Network, devices: int, uneven: bool) -> list[Network]:
    """Return decoupled versions: the published ones that fit, or else wider by `WIDTH`."""
    made = []
    for name in PRESETS if devices <= 4 else ():
        try:
            decoupled = decouple(network, preset=name)
        except DecoupleError:
            continue
        made.append(Network(f"decoupled, {name}", decoupled.module))
    wanted = [devices] if not made or devices != 4 else []
    wanted += [2 * devices] if uneven and 2 * devices <= MAX_TOTAL else []
    for groups in wanted:
        try:
            decoupled = decouple(network, groups=groups, width=WIDTH)
        except DecoupleError:
            continue
        made.append(Network(f"decoupled, G={groups} x{WIDTH:g}", decoupled.module))
    return made


def _one(speeds: Sequence[float]) -> list[tuple[int, ...]]:
    return [(1,)] if len(speeds) == 1 else []


def _several(speeds: Sequence[float]) -> list[tuple[int, ...]]:
    return share_choices(speeds) if len(speeds) > 1 else []


def _turns(speeds: Sequence[float]) -> list[tuple[int, ...]]:
    """Return turns of replicas: a program for all, so any number of turns will do."""
    if len(speeds) < 2:
        return []
    return share_choices(speeds, most=max(MAX_TOTAL, 2 * len(speeds)))


def _stages(speeds: Sequence[float]) -> list[tuple[int, ...]]:
    """Return stages of a pipeline; more of them than devices are balanced better."""
    if len(speeds) < 2:
        return []
    finer = proportional_shares(3 * len(speeds), speeds)
    even = max(speeds) <= UNEVEN * min(speeds)
    return [(1,) * len(speeds), *([] if even else [finer])]
