# SPDX-License-Identifier: Apache-2.0
"""Histograms of the magnitudes of channels, and the limit that an integer type should reach to.

The limit is what the largest integer stands for; what lies beyond is cut off. It is chosen by

- ``"headroom"`` (default): `HEADROOM` times the largest magnitude seen. A few dozen samples do not
  show the largest value that a channel will ever hold, and a cut costs far more than the half bit
  of resolution that the headroom does.
- ``"max"``: the largest magnitude seen.
- ``"percentile"``: what 99.99 % of the channel's magnitudes other than zero stay below.
- ``"mse"``: of `CANDIDATES` fractions of the maximum, the one with the least mean squared error of
  rounding and cutting off, on the samples.

The last three suit samples so many that none to come is out of the ordinary, and with 8 bits they
hardly differ: a limit lower by 2 % cuts off more than it saves unless a channel holds thousands of
values for each one beyond. `benchmarks.wires` compares all four on photographs that calibration did
not see; docs/RESULTS.md has the figures.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias, TypeVar, get_args

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
_Numbers = TypeVar("_Numbers", bound=Any)
Method = Literal["headroom", "max", "percentile", "mse"]
METHODS: tuple[str, ...] = get_args(Method)

BINS = 2048
"""Bins of a histogram, of which half at least are in use: 4 or more to an integer."""
HEADROOM = 1.5
CANDIDATES = 48
PERCENTILE = 0.9999
# Limits are looked for down to this part of the maximum.
_LEAST = 0.1


def headroom_limits(largest: _Numbers) -> _Numbers:
    """Return the limits that stand for the largest magnitudes seen, by ``"headroom"``.

    The compiler's and, in training, the fake quantisation's rule: `largest` is an array of NumPy or
    a tensor of PyTorch, one element for each channel.
    """
    scaled: _Numbers = largest * HEADROOM
    return _positive(scaled)


def _positive(found: _Numbers) -> _Numbers:
    """Return limits above 0: a channel that was always zero gets whatever suits the others."""
    limits: _Numbers = found + 0.0  # a copy, of an array or a tensor
    widest = found.max()
    limits[limits <= 0] = widest + (widest <= 0)  # no comparison leaves the device
    return limits


class ChannelHistogram:
    """Histograms of the magnitudes of many channels.

    A bin's width doubles when a larger magnitude comes, so that memory does not grow with samples.

    Parameters
    ----------
    channels : int
        How many there are.
    """

    def __init__(self, channels: int) -> None:
        self.counts = np.zeros((channels, BINS), np.int64)
        self.width = np.zeros(channels)
        self.largest = np.zeros(channels)

    def add(self, magnitudes: Array) -> None:
        """Count ``magnitudes[channel, :]``, none of them negative; zeros are left out."""
        self._widen(magnitudes.max(axis=1))
        width = np.where(self.width > 0, self.width, 1.0)[:, np.newaxis]
        bins = np.minimum((magnitudes / width).astype(np.int64), BINS - 1)
        bins += BINS * np.arange(len(bins))[:, np.newaxis]
        seen = bins[magnitudes > 0]
        self.counts += np.bincount(seen, minlength=self.counts.size).reshape(self.counts.shape)

    def limits(self, method: Method, levels: int) -> Array:
        """Return a positive limit per channel for integers up to `levels`."""
        if method == "headroom":
            return np.asarray(headroom_limits(self.largest), "float32")
        if method == "max":
            found = self.largest
        elif method == "percentile":
            found = self._percentile()
        else:
            found = self._least_error(levels)
        return np.asarray(_positive(found), "float32")

    def _widen(self, largest: Array) -> None:
        """Let the histograms reach to `largest`: double a bin's width, two bins becoming one."""
        first = (self.width == 0) & (largest > 0)
        self.width[first] = largest[first] / BINS
        while (short := largest > self.width * BINS * (1 + 1e-9)).any():
            halves = self.counts[short].reshape(-1, BINS // 2, 2).sum(axis=2)
            self.counts[short] = np.pad(halves, ((0, 0), (0, BINS // 2)))
            self.width[short] *= 2
        self.largest = np.maximum(self.largest, largest)

    def _percentile(self) -> Array:
        share = self.counts.cumsum(axis=1) / np.maximum(self.counts.sum(axis=1, keepdims=True), 1)
        reached: Array = (np.argmax(share >= PERCENTILE, axis=1) + 1) * self.width
        return np.minimum(reached, self.largest)

    def _least_error(self, levels: int) -> Array:
        centers = (np.arange(BINS) + 0.5) * self.width[:, np.newaxis]
        best, error = self.largest, np.full(len(self.largest), np.inf)
        for part in np.linspace(1, _LEAST, CANDIDATES):
            limit = part * self.largest
            scale = np.where(limit > 0, limit / levels, 1.0)[:, np.newaxis]
            rounded = np.minimum(np.rint(centers / scale), levels) * scale
            new = (self.counts * (centers - rounded) ** 2).sum(axis=1)
            best, error = np.where(new < error, limit, best), np.minimum(new, error)
        return best
