# SPDX-License-Identifier: Apache-2.0
"""Decouple a network: widen it, shuffle its channels, make its convolutions group convolutions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import tvm

from decnn_tvm.errors import DecoupleError
from decnn_tvm.network import Network
from decnn_tvm.passes.decouple_convolutions import DecoupleConvolutions, Origin
from decnn_tvm.passes.insert_channel_shuffle import InsertChannelShuffle, Order
from decnn_tvm.passes.shuffle_places import Where
from decnn_tvm.passes.widen_channels import WidenChannels
from decnn_tvm.presets import Structure, apply_preset


def decouple(
    network: Network,
    *,
    groups: int = 4,
    width: float = 1.0,
    shuffle: Where | None = "stage",
    order: Order = "decnn",
    exclude: Iterable[str] = (),
    weights: Origin = "inherit",
    seed: int = 0,
    multiple: int | None = None,
    channels: Mapping[str, int] | None = None,
    preset: str | None = None,
) -> Network:
    """Return a decoupled network; it needs training before its answers mean anything.

    Parameters
    ----------
    network : Network
        The dense network.
    groups : int
        Channel groups, and so the most devices that can share the network.
    width : float
        Factor on the channels of convolutions; see `WidenChannels`.
    shuffle : {"stage", "block"}, int, sequence of str, or None
        Where channel shuffles go; see `InsertChannelShuffle`.
    order : {"decnn", "shufflenet"}
        Order of the shuffles.
    exclude : iterable of str
        Layers to leave dense.
    weights : {"inherit", "fresh"}
        Keep the weights that join channels of one group, or draw new ones for all convolutions.
        Inherited weights follow the
        shuffles: what a group gets by one, it meets with the weights of those very channels. Where
        that can't be, it is logged. `decnn_tvm.training.decouple_calibrated` keeps more.
    seed : int
        Seed of fresh weights.
    multiple : int, optional
        Round widened channels to multiples of it, ``groups ** 2`` if left out (``groups`` without
        shuffles); given with ``width=1.0``, channels are rounded up to it.
    channels : mapping from layer name to int, optional
        Exact channels, which win over `width`.
    preset : str, optional
        A published structure (`decnn_tvm.presets`) instead of `groups`, `width`, `shuffle`,
        `multiple` and `channels`.

    Raises
    ------
    DecoupleError
        What was asked for can't be had on this network; the message says what can.
    """
    structure = choose_structure(
        network,
        groups=groups,
        width=width,
        shuffle=shuffle,
        multiple=multiple,
        channels=channels,
        preset=preset,
    )
    passes: list[Any] = []
    widening = widening_pass(structure, weights=weights, seed=seed)
    if widening is not None:
        passes.append(widening)
    elif weights == "fresh":  # also those of layers that stay dense
        passes.append(WidenChannels(width=1.0, groups=1, multiple=1, weights=weights, seed=seed))
    groups = structure.groups
    if structure.shuffle is not None:
        follow = weights == "inherit"
        passes.append(
            InsertChannelShuffle(groups=groups, after=structure.shuffle, order=order, follow=follow)
        )
    passes.append(DecoupleConvolutions(groups=groups, exclude=exclude, weights=weights, seed=seed))
    return dataclasses.replace(network, module=tvm.transform.Sequential(passes)(network.module))


def choose_structure(
    network: Network,
    *,
    groups: int,
    width: float,
    shuffle: Where | None,
    multiple: int | None,
    channels: Mapping[str, int] | None,
    preset: str | None,
) -> Structure:
    """Return what a preset, or these parameters of `decouple`, ask of a network.

    Raises
    ------
    DecoupleError
        A preset and parameters that it chooses itself, or one for another network.
    """
    if preset is None:
        return Structure(
            groups=groups, width=width, channels=channels or {}, shuffle=shuffle, multiple=multiple
        )
    if (groups, width, shuffle, multiple, channels) != (4, 1.0, "stage", None, None):
        raise DecoupleError(
            f"preset {preset!r} chooses groups, width, shuffle, multiple and channels itself: "
            "leave them out"
        )
    return apply_preset(preset, network.module)


def widening_pass(
    structure: Structure, *, weights: Origin = "inherit", seed: int = 0
) -> WidenChannels | None:
    """Return the pass that widens a network to `structure`, None if its channels stay."""
    if structure.width == 1.0 and structure.multiple is None and not structure.channels:
        return None
    square = structure.groups**2 if structure.shuffle is not None else structure.groups
    return WidenChannels(
        width=structure.width,
        groups=structure.groups,
        multiple=structure.multiple or square,
        channels=structure.channels,
        weights=weights,
        seed=seed,
    )
