# SPDX-License-Identifier: Apache-2.0
"""Which channels share a group: an assignment that keeps as much of the dense layers as it can.

A decoupled layer sees, for each of its outputs, the inputs of the output's own group alone. With
the energy ``E[o, i] = sum_k W[o, i, k]^2 var(x_i)``, each row divided by its sum, the share of a
layer that is kept is the mean over its output positions t of the sum of ``E[o(t), i]`` over the
inputs i in t's group. (Batch norm divides by each output's deviation, hence the rows; it takes
means away, hence the variance.) Correlations between inputs are left to the least squares that
come later.

Channels are placed class by class: a class is all tensors tied by sums, activations and the like,
and they share one order. With the other classes held still, the kept share is linear in the
positions of a class, so the best positions are a linear assignment, solved exactly
(`scipy.optimize.linear_sum_assignment`); sweeps over the classes never lower the share. Several
starts guard against poor optima. After a channel shuffle a position belongs to another group, and
the score of a position counts all the groups that it has.

A widened class has more positions than channels. Each channel gets one, and then every group fills
its remaining positions with those channels that it lacks and wants most.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

logger = logging.getLogger(__name__)
_SWEEPS = 12
_LEAST_GAIN = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Side:
    """The inputs or the outputs of a decoupled layer.

    Attributes
    ----------
    channels : Index
        For each old channel its class and its number there, (channels, 2).
    positions : Index
        For each new channel the class and the position in it, (positions, 2).
    owners : Index
        The group of each new channel.
    """

    channels: Index
    positions: Index
    owners: Index


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """A layer to decouple: its two sides, and the energy of each (old output, old input)."""

    outputs: Side
    inputs: Side
    energy: Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """A class of channels: how many there are, how many there will be, and whether they move."""

    old: int
    new: int
    free: bool


Sources = dict[int, Index]
"""For each class, and each new position, the old channel that stands there."""


def natural_order(classes: Mapping[int, Channels]) -> Sources:
    """Return the order that channels have by themselves, copies after the originals."""
    return {key: np.arange(c.new) % c.old for key, c in classes.items()}


class ChannelAssignment:
    """Place the channels of every class.

    Parameters
    ----------
    classes : mapping from int to Channels
        The classes.
    layers : sequence of Layer
        What is to be decoupled.
    groups : int
        Channel groups.
    """

    def __init__(
        self, classes: Mapping[int, Channels], layers: Sequence[Layer], groups: int
    ) -> None:
        self.classes, self.groups = dict(classes), groups
        self.layers = [_normalised(layer) for layer in layers]

    def natural(self) -> Sources:
        """Return the order that channels have by themselves, copies after the originals."""
        return natural_order(self.classes)

    def solve(self, *, starts: int = 4, seed: int = 0) -> Sources:
        """Return the best assignment of several starts, of which the natural order is the first."""
        random = np.random.default_rng(seed)
        best, highest = self.natural(), -1.0
        for start in range(starts):
            sources = self._improved(self.natural() if start == 0 else self._drawn(random))
            share = self.kept(sources)
            logger.debug("start %d keeps %.4f", start, share)
            if share > highest + _LEAST_GAIN:
                best, highest = sources, share
        return best

    def kept(self, sources: Sources) -> float:
        """Return the kept share, the mean over the layers."""
        shares = [self.kept_by(layer, sources) for layer in self.layers]
        return float(np.mean(shares)) if shares else 1.0

    def kept_by(self, layer: Layer, sources: Sources) -> float:
        """Return the kept share of one of `layers`."""
        held = self._held(layer.inputs, sources) > 0
        wanted = self._held(layer.outputs, sources)
        return float(np.sum(wanted * (held @ layer.energy.T)) / len(layer.outputs.owners))

    def _improved(self, sources: Sources) -> Sources:
        share = self.kept(sources)
        for _ in range(_SWEEPS):
            before = share
            for key, channels in self.classes.items():
                if not channels.free:
                    continue
                changed = {**sources, key: self._placed(channels, self._scores(key, sources))}
                if (new := self.kept(changed)) > share:
                    sources, share = changed, new
            if share - before < _LEAST_GAIN:
                break
        return sources

    def _drawn(self, random: np.random.Generator) -> Sources:
        return {
            key: self._placed(c, random.random((c.old, c.new))) if c.free else np.arange(c.old)
            for key, c in self.classes.items()
        }

    def _placed(self, channels: Channels, scores: Array) -> Index:
        """Return the channel that each position gets, by the scores (channels, positions)."""
        from scipy.optimize import linear_sum_assignment

        chosen, positions = linear_sum_assignment(scores, maximize=True)
        placed = np.full(channels.new, -1, "int64")
        placed[positions] = chosen
        for group in np.array_split(np.arange(channels.new), self.groups):
            empty = group[placed[group] < 0]
            lacking = np.setdiff1d(np.arange(channels.old), placed[group])
            if len(lacking) < len(empty):  # wider than the dense layer is: copies within a group
                lacking = np.resize(np.arange(channels.old), channels.new)
            rows, columns = linear_sum_assignment(scores[np.ix_(lacking, empty)], maximize=True)
            placed[empty[columns]] = lacking[rows]
        return placed

    def _scores(self, key: int, sources: Sources) -> Array:
        """Return what each (channel, position) of a class adds to the kept share."""
        channels = self.classes[key]
        scores = np.zeros((channels.old, channels.new))
        for layer in self.layers:
            count = len(layer.outputs.owners)
            held = (self._held(layer.inputs, sources) > 0).astype("float64")
            wanted = self._held(layer.outputs, sources)
            _add_scores(scores, key, layer.outputs, layer.energy @ held.T / count)
            _add_scores(scores, key, layer.inputs, layer.energy.T @ wanted.T / count)
        return scores

    def _held(self, side: Side, sources: Sources) -> Array:
        """Count the new channels of each group that copy each old channel, (groups, channels)."""
        old = np.zeros(len(side.owners), "int64")
        offsets: dict[int, int] = {}
        for index, (key, channel) in enumerate(side.channels):
            offsets.setdefault(int(key), index - int(channel))
        for key in offsets:
            here = side.positions[:, 0] == key
            old[here] = offsets[key] + sources[key][side.positions[here, 1]]
        held = np.zeros((self.groups, len(side.channels)))
        np.add.at(held, (side.owners, old), 1)
        return held


def _add_scores(scores: Array, key: int, side: Side, gain: Array) -> None:
    """Add ``gain[channel, group]`` to every position of class `key` on one side of a layer."""
    mine = side.channels[:, 0] == key
    if not mine.any():
        return
    ordered = np.zeros((len(scores), gain.shape[1]))
    ordered[side.channels[mine, 1]] = gain[mine]
    here = side.positions[:, 0] == key
    np.add.at(scores.T, side.positions[here, 1], ordered[:, side.owners[here]].T)


def _normalised(layer: Layer) -> Layer:
    total = layer.energy.sum(axis=1, keepdims=True)
    return Layer(
        outputs=layer.outputs,
        inputs=layer.inputs,
        energy=layer.energy / np.where(total > 0, total, 1.0),
    )
