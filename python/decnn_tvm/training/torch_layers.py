# SPDX-License-Identifier: Apache-2.0
"""The modules and functions that a translated network calls beside PyTorch's own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class BatchNorm(nn.Module):
    """Batch norm over weights that stand elsewhere, under the names that the network gives them.

    In training it normalises by the batch and moves the running statistics, in place.

    Parameters
    ----------
    axis : int
        Where the channels are.
    epsilon, momentum : float
        As in `torch.nn.BatchNorm2d`.
    """

    def __init__(self, axis: int, epsilon: float, momentum: float) -> None:
        super().__init__()
        self.axis, self.epsilon, self.momentum = axis, epsilon, momentum

    def forward(
        self, x: Tensor, scale: Tensor | None, shift: Tensor | None, mean: Tensor, variance: Tensor
    ) -> Tensor:
        """Return `x` normalised; `mean` and `variance` are buffers."""
        data = x if self.axis == 1 else x.movedim(self.axis, 1)
        normal = functional.batch_norm(
            data, mean, variance, scale, shift, self.training, self.momentum, self.epsilon
        )
        return normal if self.axis == 1 else normal.movedim(1, self.axis)


def add_bias(x: Tensor, bias: Tensor) -> Tensor:
    """Add a bias in the precision of `x`, which autocast may have lowered."""
    return x + bias.to(x.dtype)


def channel_shuffle(x: Tensor, rows: int) -> Tensor:
    """Write channels as a matrix of `rows` rows and read them by columns, in the layout of `x`."""
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        last = torch.unflatten(x.permute(0, 2, 3, 1), 3, (rows, -1)).transpose(3, 4)
        return last.flatten(3).permute(0, 3, 1, 2)
    return torch.unflatten(x, 1, (rows, -1)).transpose(1, 2).flatten(1, 2)


def reshape_samples(x: Tensor, shape: list[int]) -> Tensor:
    """Reshape each sample to `shape`."""
    return x.reshape(x.shape[0], *shape)


def max_pool(
    x: Tensor,
    window: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    ceil: bool,
) -> Tensor:
    """Pool with a padding of (top, left, bottom, right), however wide."""
    top, left, bottom, right = padding
    if any(padding) and not _fits(padding, window):
        x = functional.pad(x, (left, right, top, bottom), value=float("-inf"))
        top = left = 0
    return functional.max_pool2d(x, window, stride, (top, left), dilation, ceil)


def average_pool(
    x: Tensor,
    window: list[int],
    stride: list[int],
    padding: list[int],
    ceil: bool,
    count_padding: bool,
) -> Tensor:
    """Pool with a padding of (top, left, bottom, right), equal on opposite sides."""
    return functional.avg_pool2d(
        x, window, stride, (padding[0], padding[1]), ceil, count_include_pad=count_padding
    )


def convolve(
    x: Tensor,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """Convolve with a padding of (top, left, bottom, right)."""
    top, left, bottom, right = padding
    if (top, left) != (bottom, right):
        x = functional.pad(x, (left, right, top, bottom))
        top = left = 0
    return functional.conv2d(x, weight, None, stride, (top, left), dilation, groups)


def _fits(padding: list[int], window: list[int]) -> bool:
    """Tell whether PyTorch pads so itself: equally on opposite sides, half a window at most."""
    top, left, bottom, right = padding
    half = (window[0] // 2, window[1] // 2)
    return (top, left) == (bottom, right) and top <= half[0] and left <= half[1]
