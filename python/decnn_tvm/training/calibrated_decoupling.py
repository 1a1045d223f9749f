# SPDX-License-Identifier: Apache-2.0
"""Decouple a network so that it keeps as much of the dense one as can be kept without training.

1. Channels are placed in groups so that group convolutions keep the most of the dense layers
   (`channel_assignment`). Widened or not, the dense network in that order computes what it did.
2. Every group convolution is fitted by least squares on unlabelled images
   (`least_squares`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tvm
from torch import Tensor

from decnn_tvm.channel_assignment import ChannelAssignment, Sources
from decnn_tvm.channel_layout import ChannelLayout
from decnn_tvm.decoupling import choose_structure, widening_pass
from decnn_tvm.network import Network
from decnn_tvm.passes.dataflow_graph import convolution, layer_name, read_graph
from decnn_tvm.passes.decouple_convolutions import DecoupleConvolutions
from decnn_tvm.passes.insert_channel_shuffle import InsertChannelShuffle, Order
from decnn_tvm.passes.lift_weights import LiftWeights
from decnn_tvm.passes.shuffle_places import Where
from decnn_tvm.passes.weights import weight_values
from decnn_tvm.training.folded_norms import channel_statistics
from decnn_tvm.training.least_squares import fit_groups
from decnn_tvm.training.observation import check_images
from decnn_tvm.training.trained_weights import replace_weights

logger = logging.getLogger(__name__)


def decouple_calibrated(
    network: Network,
    images: Tensor,
    *,
    groups: int = 4,
    width: float = 1.0,
    shuffle: Where | None = "stage",
    order: Order = "decnn",
    exclude: Iterable[str] = (),
    multiple: int | None = None,
    channels: Mapping[str, int] | None = None,
    preset: str | None = None,
    fit: bool = True,
    starts: int = 4,
    seed: int = 0,
) -> Network:
    """Return a decoupled network that inherits what it can from the dense one.

    Parameters
    ----------
    network : Network
        The dense network, batch norms not folded (see `restore_batch_norms`).
    images : Tensor
        Calibration images without labels, (N, C, H, W), normalised as the network wants them; some
        hundred will do.
    groups, width, shuffle, order, exclude, multiple, channels, preset
        The structure; see `decnn_tvm.decouple`.
    fit : bool
        Fit the group convolutions by least squares; without, they hold the dense weights that
        their groups kept.
    starts, seed : int
        Starts of the search for groups (0: channels stay in their order), and their seed.

    Raises
    ------
    DecoupleError
        What was asked for can't be had on this network.
    TrainingError
        The images can't be used.
    """
    images = check_images(network, images)
    structure = choose_structure(
        network,
        groups=groups,
        width=width,
        shuffle=shuffle,
        multiple=multiple,
        channels=channels,
        preset=preset,
    )
    excluded = tuple(exclude)
    source = tvm.transform.Sequential([LiftWeights()])(network.module)
    widening = widening_pass(structure)
    passes: list[Any] = [widening] if widening else []
    if structure.shuffle is not None:
        passes.append(
            InsertChannelShuffle(groups=structure.groups, after=structure.shuffle, order=order)
        )
    split = DecoupleConvolutions(groups=structure.groups, exclude=excluded)
    shaped = tvm.transform.Sequential(passes)(source)
    tvm.transform.Sequential([split])(shaped)  # raises where the structure can't be had
    layout = ChannelLayout(source["main"], structure, widening, order, excluded)
    chosen = _assigned(network, layout, images, starts, seed)
    ordered = replace_weights(Network(network.name, shaped), layout.weights(chosen))
    decoupled = Network(network.name, tvm.transform.Sequential([split])(ordered.module))
    kept = _whole_copies(decoupled, layout, chosen)
    if not fit:
        return kept
    copied = {name: layout.side_sources(name, chosen)[0] for name in layout.inputs_of_layers()}
    return fit_groups(network, kept, copied, images)


def _assigned(
    network: Network, layout: ChannelLayout, images: Tensor, starts: int, seed: int
) -> Sources:
    """Return where the channels of each class go."""
    names = layout.inputs_of_layers()
    read = {
        layer_name(call): call.args[0]
        for value in read_graph(network.function).values.values()
        if (call := convolution(value)) is not None and layer_name(call) in names
    }
    statistics = channel_statistics(network, list(dict.fromkeys(read.values())), images)
    variances = {name: statistics[var][1] for name, var in read.items()}
    assignment = ChannelAssignment(
        layout.channels(), list(layout.layers(variances).values()), layout.groups
    )
    chosen = assignment.solve(starts=starts, seed=seed)
    logger.info(
        "groups keep %.3f of the energy of %d layers, %.3f in natural order",
        assignment.kept(chosen),
        len(names),
        assignment.kept(assignment.natural()),
    )
    return chosen


def _whole_copies(network: Network, layout: ChannelLayout, chosen: Sources) -> Network:
    """Undo the division of weights by the copies of a channel where a group has one of them alone.

    A widened dense layer adds over all copies of a channel, a group convolution over those in its
    group.
    """
    values = dict(weight_values(network.function))
    for name, owners in layout.input_owners().items():
        _, source = layout.side_sources(name, chosen)
        total = np.bincount(source)[source]
        factor = np.empty(len(source), "float32")
        for group in range(layout.groups):
            mine = owners == group
            factor[mine] = total[mine] / np.bincount(source[mine])[source[mine]]
        # A group's inputs stand in the order of the tensor, one group after the other.
        by_group = factor[np.argsort(owners, kind="stable")].reshape(layout.groups, -1)
        key = layout.weight_name(name)
        rows = np.repeat(by_group, values[key].shape[0] // layout.groups, axis=0)
        values[key] = values[key] * rows[:, :, None, None]
    return replace_weights(network, values)
