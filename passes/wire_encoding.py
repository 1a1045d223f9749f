# SPDX-License-Identifier: Apache-2.0
"""How exchanged activations travel: as float32, as float16, or as scaled integers of 8 bits.

With q levels (127 for int8, 255 for uint8, which serves what can't be negative) and one scale s for
each channel,

    sent = clip(round(x / s), -q or 0, q),    received = s * sent,

round being to the nearest even. The zero point is 0 in both types, so that padding stays zero. The
scales come in two ways:

- *Static*: s = limit / q, from the largest magnitude that calibration gives a channel. The sender
  multiplies by 1 / s and the receiver by s; both are weights, sliced like the channels that a
  device holds, so that every device runs the same program and a message is the integers alone.
- *Per message*: s = max|x| / q over each channel of this very sample, computed by the sender and
  sent beside the integers as a tensor of its own. It needs no calibration, but the sender reads the
  tensor a second time.

The arithmetic here is part of the stage functions, where it fuses with the kernels around it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tvm import relax

from decnn_tvm.passes.weights import Array, static_shape

WIRES = ("float32", "float16", "int8")
"""What a user may ask for; int8 stands for uint8 too."""

WireLimits = Mapping[str, Array]
"""For each exchanged value, by name, the largest magnitude of each of its channels."""

LEVELS = {"int8": 127, "uint8": 255}
# With fewer elements to a channel, a float32 scale beside them would undo what bytes save.
LEAST_ELEMENTS = 16
_TINY = 1e-30


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """How one value travels.

    Attributes
    ----------
    dtype : str
        Element type on the wire.
    axis : int, optional
        The axis of the scales; None where the value is not scaled.
    limits : array, optional
        Magnitude per index of that axis; None where scales are computed per message.
    """

    dtype: str
    axis: int | None = None
    limits: Array | None = None

    @property
    def is_static(self) -> bool:
        """Whether the scales are weights."""
        return self.limits is not None

    @property
    def per_message(self) -> bool:
        """Whether the scales travel beside the value."""
        return self.axis is not None and self.limits is None

    def scale(self, rank: int) -> Array:
        """Return the static scales, to be broadcast with a tensor of `rank` axes."""
        assert self.limits is not None and self.axis is not None
        shape = [1] * rank
        shape[self.axis] = -1
        return (self.limits / LEVELS[self.dtype]).astype("float32").reshape(shape)


def scale_shape(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Return the shape of the scales per message: one for each channel of each image."""
    return tuple(extent if i in (0, axis) else 1 for i, extent in enumerate(shape))


def elements_per_scale(shape: tuple[int, ...], axis: int) -> int:
    """Return how many elements share a scale per message."""
    return math.prod(shape) // math.prod(scale_shape(shape, axis))


def encode(
    builder: relax.BlockBuilder, value: relax.Expr, inverse: relax.Expr, dtype: str
) -> relax.Expr:
    """Return `value` as integers, each channel times its `inverse` scale."""
    levels = LEVELS[dtype]
    scaled = builder.emit(relax.op.round(builder.emit(relax.op.multiply(value, inverse))))
    lowest = -levels if dtype == "int8" else 0
    return builder.emit(relax.op.astype(builder.emit(relax.op.clip(scaled, lowest, levels)), dtype))


def message_scale(
    builder: relax.BlockBuilder, value: relax.Expr, encoding: Encoding
) -> tuple[relax.Expr, relax.Expr]:
    """Return the scales of one message and their inverses."""
    shape, levels = static_shape(value), LEVELS[encoding.dtype]
    axes = [i for i in range(1, len(shape)) if i != encoding.axis]
    size = value if encoding.dtype == "uint8" else builder.emit(relax.op.abs(value))
    largest = builder.emit(relax.op.max(size, axes, keepdims=True))
    # A channel of zeros has no scale of its own, and any serves.
    largest = builder.emit(relax.op.maximum(largest, relax.const(np.float32(_TINY))))
    scale = builder.emit(relax.op.multiply(largest, relax.const(np.float32(1 / levels))))
    return scale, builder.emit(relax.op.divide(relax.const(np.float32(levels)), largest))


def decode(
    builder: relax.BlockBuilder, value: relax.Expr, scale: relax.Expr, dtype: str
) -> relax.Expr:
    """Return the integers `value` times their scales, as `dtype`."""
    return builder.emit(relax.op.multiply(builder.emit(relax.op.astype(value, dtype)), scale))
