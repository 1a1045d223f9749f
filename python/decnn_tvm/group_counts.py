# SPDX-License-Identifier: Apache-2.0
"""How many channel groups a network is compiled for, and how many of them a device may own."""

from __future__ import annotations

from collections.abc import Sequence

from decnn_tvm.assignment import even_shares
from decnn_tvm.errors import PartitionError
from decnn_tvm.network import Network


def group_counts(
    network: Network, workers: int | None, shares: Sequence[int] | None, all_shares: bool | None
) -> tuple[int, int, list[int]]:
    """Return the numbers of devices and of channel groups, and those on a device to compile for.

    Parameters
    ----------
    network : Network
        Dense or decoupled.
    workers : int, optional
        Number of devices.
    shares : sequence of int, optional
        Channel groups per device.
    all_shares : bool, optional
        Any number of groups may be on a device; by default for decoupled networks.

    Raises
    ------
    PartitionError
        The network can't be split so.
    """
    own = network.groups
    if shares is not None and workers not in (None, len(shares)):
        raise PartitionError(
            f"{network.name!r}: shares {list(shares)} are for {len(shares)} workers, but "
            f"workers={workers}. Give one of the two."
        )
    if shares is not None and (not shares or min(shares) < 1):
        raise PartitionError(
            f"{network.name!r}: shares {list(shares)}; expected one number of channel groups, "
            "at least 1, for each worker."
        )
    count = len(shares) if shares is not None else (workers if workers is not None else own)
    if count is None or count < 1:
        raise PartitionError(
            f"{network.name!r} is not decoupled and {count} workers were asked for. "
            "Pass workers=N, at least 1."
        )
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
    every = own is not None if all_shares is None else all_shares
    return count, groups, list(range(1, groups + 1)) if every else sorted(set(chosen))
