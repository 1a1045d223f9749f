# SPDX-License-Identifier: Apache-2.0
"""How many groups a network is compiled for, and how many of them a device may own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from decnn_tvm.assignment import even_shares
from decnn_tvm.errors import PartitionError
from decnn_tvm.network import Network
from decnn_tvm.plan import ONE_PROGRAM, STRATEGIES, Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupCounts:
    """What a network is compiled for.

    Attributes
    ----------
    devices : int
        Devices.
    groups : int
        Groups of the plan.
    compiled : tuple of int
        Numbers of groups on a device to compile for.
    served : tuple of int
        Numbers of groups that a device may own then.
    shares : tuple of int, optional
        Groups of each device, where they were asked for.
    """

    devices: int
    groups: int
    compiled: tuple[int, ...]
    served: tuple[int, ...]
    shares: tuple[int, ...] | None = None


def group_counts(
    network: Network,
    workers: int | None,
    shares: Sequence[int] | None,
    all_shares: bool | None,
    strategy: Strategy = "channels",
) -> GroupCounts:
    """Return the numbers of devices and of groups, and those on a device to compile for.

    Parameters
    ----------
    network : Network
        Dense or decoupled.
    workers : int, optional
        Number of devices.
    shares : sequence of int, optional
        Groups per device.
    all_shares : bool, optional
        Any number of groups may be on a device; by default for decoupled networks that are split by
        channels.
    strategy : str
        What a group is; see `decnn_tvm.plan`.

    Raises
    ------
    PartitionError
        The network can't be split so.
    """
    if strategy not in STRATEGIES:
        raise PartitionError(f"strategy {strategy!r}; expected one of {list(STRATEGIES)}.")
    own = network.groups if strategy == "channels" else None
    count = _devices(network, workers, shares, own, strategy)
    groups = own if own is not None else (sum(shares) if shares is not None else count)
    if count > groups:
        raise PartitionError(
            f"{network.name!r} is decoupled into G={groups} channel groups, so at most {groups} "
            f"workers can share it; {count} were asked for. Use fewer workers or more groups."
        )
    chosen = tuple(shares) if shares is not None else even_shares(groups, count)
    if sum(chosen) != groups:
        raise PartitionError(
            f"{network.name!r} has G={groups} channel groups, but shares {list(chosen)} add up to "
            f"{sum(chosen)}. Make them add up to {groups}."
        )
    if strategy == "replicas":
        groups *= max(1, count - 1)  # so that the rest of them share evenly if one is lost
    asked = None if shares is None else tuple(shares)
    every = tuple(range(1, groups + 1))
    if strategy in ONE_PROGRAM:
        return GroupCounts(devices=count, groups=groups, compiled=(1,), served=every, shares=asked)
    counts = every if (own is not None if all_shares is None else all_shares) else chosen
    compiled = tuple(sorted({*counts}))
    return GroupCounts(
        devices=count, groups=groups, compiled=compiled, served=compiled, shares=asked
    )


def _devices(
    network: Network,
    workers: int | None,
    shares: Sequence[int] | None,
    own: int | None,
    strategy: Strategy,
) -> int:
    """Return the number of devices that was asked for."""
    if shares is not None and workers not in (None, len(shares)):
        raise PartitionError(
            f"{network.name!r}: shares {list(shares)} are for {len(shares)} workers, but "
            f"workers={workers}. Give one of the two."
        )
    if shares is not None and (not shares or min(shares) < 1):
        raise PartitionError(
            f"{network.name!r}: shares {list(shares)}; expected one number of "
            f"{STRATEGIES[strategy]}, at least 1, for each worker."
        )
    count = len(shares) if shares is not None else (workers if workers is not None else own)
    if strategy == "single":
        if count not in (None, 1) or shares not in (None, (1,), [1]):
            raise PartitionError(
                f"{network.name!r}: the strategy 'single' is one worker's, and {count} were asked "
                "for. Leave workers out, or choose another strategy."
            )
        return 1
    if count is None or count < 1:
        why = "is not decoupled" if strategy == "channels" else f"is to be split by {strategy!r}"
        raise PartitionError(
            f"{network.name!r} {why} and {count} workers were asked for. "
            "Pass workers=N, at least 1."
        )
    return count
