# SPDX-License-Identifier: Apache-2.0
"""What a float16 or int8 wire does to an activation, as a module that can be trained through.

With q levels (127 for int8; 255 for uint8, where nothing is negative) and a static scale
s = limit / q for each channel, int8 gives ``s * clip(round(x / s), -q or 0, q)``. Limits follow
from the largest magnitudes by the compiler's own default, `headroom_limits`, so that a network
compiled with a calibration on the same images rounds alike. Gradients pass straight through the
rounding and stop where a value was clipped (Bengio et al., "Estimating or Propagating Gradients
Through Stochastic Neurons", 2013).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from decnn_tvm.channel_histogram import headroom_limits
from decnn_tvm.errors import TrainingError
from decnn_tvm.passes.wire_encoding import LEVELS

Wire: TypeAlias = Literal["float32", "float16", "int8"]
WIRES: tuple[Wire, ...] = ("float32", "float16", "int8")
_MOMENTUM = 0.1  # of the largest magnitudes in training, as of the statistics of batch norms
_HALF_MAX = 65504.0


class WireRounding(nn.Module):
    """Round an exchanged tensor as its wire does.

    Parameters
    ----------
    wire : {"float16", "int8"}
        The wire.
    channels, axis : int
        How many channels have a scale each, and where they are.
    signed : bool
        Whether values can be negative; if not, int8 stands for uint8.

    Attributes
    ----------
    largest : Tensor
        The largest magnitude of each channel; 0 until it has been observed.
    observing : bool
        Let values pass as they are and take their ranges.
    """

    largest: Tensor

    def __init__(self, wire: Wire, channels: int, axis: int = 1, *, signed: bool = True) -> None:
        super().__init__()
        if wire not in WIRES:
            raise TrainingError(f"wire {wire!r}: expected one of {list(WIRES)}")
        self.wire, self.axis, self.signed, self.observing = wire, axis, signed, False
        self.register_buffer("largest", torch.zeros(channels if wire == "int8" else 0))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` as the receiver gets it."""
        if self.wire == "float16":
            # In float32 also under autocast: bfloat16 rounds the bound up, and that is infinity.
            sent = x.float().clamp(-_HALF_MAX, _HALF_MAX)
            return (sent + (sent.half().float() - sent).detach()).to(x.dtype)
        if self.wire != "int8" or self.observing:
            self._observe(x, whole=True)
            return x
        if self.training:
            self._observe(x, whole=False)
        return self._integers(x)

    @torch.no_grad()
    def _observe(self, x: Tensor, *, whole: bool) -> None:
        """Take the largest magnitudes of `x` in: all of them, or as a moving average."""
        if self.wire != "int8":
            return
        largest = x.detach().abs().movedim(self.axis, 0).flatten(1).amax(1).to(self.largest.dtype)
        if whole:
            self.largest.copy_(torch.maximum(self.largest, largest))
        else:
            start = torch.where(self.largest > 0, self.largest, largest)
            self.largest.copy_(start.lerp(largest, _MOMENTUM))

    def _integers(self, x: Tensor) -> Tensor:
        levels = LEVELS["int8" if self.signed else "uint8"]
        shape = [1] * x.dim()
        shape[self.axis] = -1
        # In float32 also under autocast: 16 bits do not hold a scale and 255 times it.
        scale: Tensor = (headroom_limits(self.largest) / levels).reshape(shape)
        top = scale * levels
        sent = torch.minimum(torch.maximum(x.float(), -top * self.signed), top)
        rounded = sent + (torch.round(sent / scale) * scale - sent).detach()
        return rounded.to(x.dtype)


def wire_roundings(module: nn.Module) -> list[WireRounding]:
    """Return the exchanges that `module` rounds, in the order in which they stand in it."""
    return [part for part in module.modules() if isinstance(part, WireRounding)]


def calibrate_wires(module: nn.Module, images: Tensor, batch: int = 64) -> None:
    """Set the ranges of a module's int8 wires to those that exchanged tensors have on images.

    Parameters
    ----------
    module : nn.Module
        From `to_torch`, in eval mode.
    images : Tensor
        (N, C, H, W), normalised, on the module's device; some dozens will do.
    batch : int
        How many run at once.
    """
    roundings = wire_roundings(module)
    for part in roundings:
        part.largest.zero_()
        part.observing = True
    try:
        with torch.no_grad():
            for images_part in torch.split(images, batch):
                module(images_part)
    finally:
        for part in roundings:
            part.observing = False
