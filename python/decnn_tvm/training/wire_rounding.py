# SPDX-License-Identifier: Apache-2.0
"""What a float16 or int8 wire does to an activation, as a module that can be trained through.

With q levels (127 for int8; 255 for uint8, where nothing is negative) and a static scale
s = limit / q for each channel, int8 gives ``s * clip(round(x / s), -q or 0, q)``. Gradients pass
straight through the rounding and stop where a value was clipped (Bengio et al., "Estimating or
Propagating Gradients Through Stochastic Neurons", 2013).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from decnn_tvm.errors import TrainingError

Wire: TypeAlias = Literal["float32", "float16", "int8"]
WIRES: tuple[Wire, ...] = ("float32", "float16", "int8")
SIGNED_LEVELS, UNSIGNED_LEVELS = 127, 255
_MOMENTUM = 0.1  # of the limits in training, as of the statistics of batch norms
_TINY = 1e-12
_HALF_MAX = 65504.0


class WireRounding(nn.Module):
    """Round an exchanged tensor as its wire does.

    Parameters
    ----------
    wire : {"float16", "int8"}
        The wire.
    channels, axis : int
        How many channels have a scale each, and where they are.

    Attributes
    ----------
    limit : Tensor
        The largest magnitude of each channel; 0 until it has been observed.
    lowest : Tensor
        The smallest value that was seen, of all channels; none below 0 means uint8.
    observing : bool
        Let values pass as they are and take their ranges.
    """

    limit: Tensor
    lowest: Tensor

    def __init__(self, wire: Wire, channels: int, axis: int = 1) -> None:
        super().__init__()
        if wire not in WIRES:
            raise TrainingError(f"wire {wire!r}: expected one of {list(WIRES)}")
        self.wire, self.axis, self.observing = wire, axis, False
        self.register_buffer("limit", torch.zeros(channels if wire == "int8" else 0))
        self.register_buffer("lowest", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` as the receiver gets it."""
        if self.wire == "float16":
            sent = x.clamp(-_HALF_MAX, _HALF_MAX)
            return sent + (sent.half().to(x.dtype) - sent).detach()
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
        largest = x.detach().abs().movedim(self.axis, 0).flatten(1).amax(1).to(self.limit.dtype)
        self.lowest.copy_(torch.minimum(self.lowest, x.detach().min().to(self.lowest.dtype)))
        if whole:
            self.limit.copy_(torch.maximum(self.limit, largest))
        else:
            start = torch.where(self.limit > 0, self.limit, largest)
            self.limit.copy_(start.lerp(largest, _MOMENTUM))

    def _integers(self, x: Tensor) -> Tensor:
        signed = self.lowest < 0
        levels = torch.where(signed, float(SIGNED_LEVELS), float(UNSIGNED_LEVELS))
        shape = [1] * x.dim()
        shape[self.axis] = -1
        scale = (self.limit.clamp(min=_TINY) / levels).reshape(shape).to(x.dtype)
        top = scale * levels
        sent = torch.minimum(torch.maximum(x, -top * signed), top)
        return sent + (torch.round(sent / scale) * scale - sent).detach()


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
        part.limit.zero_()
        part.lowest.zero_()
        part.observing = True
    try:
        with torch.no_grad():
            for images_part in torch.split(images, batch):
                module(images_part)
    finally:
        for part in roundings:
            part.observing = False
