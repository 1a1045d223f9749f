# SPDX-License-Identifier: Apache-2.0
"""Batches for training and testing.

The order of an epoch and what is done to its images follow from the seed and the number of the
epoch alone, so a run that was interrupted goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from math import inf
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from decnn_tvm.errors import TrainingError
from decnn_tvm.labelled_images import ImageData, LabelledImages

Batch: TypeAlias = tuple[Tensor, Tensor]
_RESIDENT = 2**31  # bytes of pixels that may stay on a GPU


class Batches(Protocol):
    """Where a training gets its batches of (images, labels) from."""

    @property
    def steps(self) -> int:
        """Batches of an epoch."""

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the training batches of an epoch."""

    def test(self) -> Iterator[Batch]:
        """Yield the test batches."""

    def calibration(self, count: int) -> Tensor:
        """Return images like those that are tested, but not these."""

    def fingerprint(self) -> str:
        """Return a short text that differs where the data do."""


class ImageBatches:
    """Batches of pixels, shifted and mirrored at random and normalised.

    Parameters
    ----------
    data : ImageData
        The images.
    mean, std : sequence of float
        Of pixels in 0 to 1, per channel: a network gets ``(pixel / 255 - mean) / std``.
    batch_size : int
        Images of a training batch; those that do not fill the last one are left out.
    seed : int
        Of orders and changes.
    augment : bool
        Shift by up to an eighth of the size, black coming in, and mirror half of the images.
    device : torch.device
        Where batches go.
    """

    def __init__(
        self,
        data: ImageData,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        batch_size: int,
        seed: int = 0,
        augment: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        channels = data.train.pixels.shape[3]
        finite = all(map(math.isfinite, mean)) and all(0 < each < inf for each in std)
        if not finite or not {len(mean), len(std)} <= {1, channels}:
            raise TrainingError(
                f"mean {list(mean)}, std {list(std)}: expected 1 or {channels} numbers each, those "
                "of std above 0"
            )
        if not 1 <= batch_size <= len(data.train.labels):
            raise TrainingError(
                f"batch size {batch_size}: expected 1 to {len(data.train.labels)}, the number of "
                "training images"
            )
        self.data, self.batch_size, self.seed, self.augment = data, batch_size, seed, augment
        self.device = torch.device(device)
        self.mean, self.std = (
            torch.tensor(list(v), device=self.device).reshape(1, -1, 1, 1) for v in (mean, std)
        )
        self._train, self._test = self._placed(data.train), self._placed(data.test)
        self._source = data.fingerprint()

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return len(self.data.train.labels) // self.batch_size

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the training batches of an epoch."""
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        pixels, labels = self._train
        order = torch.randperm(len(labels), generator=random)
        for step in range(self.steps):
            index = order[step * self.batch_size : (step + 1) * self.batch_size].to(pixels.device)
            batch = pixels[index].to(self.device)
            if self.augment:
                batch = _shifted_and_mirrored(batch, random)
            yield self._normal(batch), labels[index].to(self.device)

    def test(self) -> Iterator[Batch]:
        """Yield the test batches."""
        pixels, labels = self._test
        size = max(self.batch_size, 256)
        for start in range(0, len(labels), size):
            batch = pixels[start : start + size].to(self.device)
            yield self._normal(batch), labels[start : start + size].to(self.device)

    def calibration(self, count: int) -> Tensor:
        """Return `count` training images as they are tested, drawn by the seed."""
        random = torch.Generator().manual_seed(self.seed)
        pixels, labels = self._train
        index = torch.randperm(len(labels), generator=random)[:count]
        return self._normal(pixels[index.to(pixels.device)].to(self.device)).cpu()

    def fingerprint(self) -> str:
        """Return a short text that differs where images, batches or changes do."""
        normal = [*self.mean.flatten().tolist(), *self.std.flatten().tolist()]
        return f"{self._source}-{self.batch_size}-{self.seed}-{int(self.augment)}-{normal}"

    def _placed(self, images: LabelledImages) -> tuple[Tensor, Tensor]:
        pixels, labels = torch.from_numpy(images.pixels), torch.from_numpy(images.labels)
        if self.device.type != "cpu" and images.pixels.nbytes <= _RESIDENT:
            return pixels.to(self.device), labels.to(self.device)
        return pixels, labels

    def _normal(self, pixels: Tensor) -> Tensor:
        """Return (N, H, W, C) pixels as (N, C, H, W) numbers, in memory as they were."""
        return (pixels.permute(0, 3, 1, 2).float() / 255 - self.mean) / self.std


def _shifted_and_mirrored(pixels: Tensor, random: torch.Generator) -> Tensor:
    """Shift and mirror (N, H, W, C) images, each in its own way."""
    count, height, width, _ = pixels.shape
    device = pixels.device
    index = []
    for size, mirrored in ((height, False), (width, True)):
        shift = torch.randint(-(size // 8), size // 8 + 1, (count, 1), generator=random)
        place = torch.arange(size).expand(count, size)
        if mirrored:
            flip = torch.rand((count, 1), generator=random) < 0.5
            place = torch.where(flip, place.flip(1), place)
        index.append(place + shift)
    rows, columns = index
    rows, columns = rows.to(device), columns.to(device)
    inside = _within(rows, height)[:, :, None] & _within(columns, width)[:, None, :]
    images = torch.arange(count, device=device)[:, None, None]
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    return pixels[images, rows[:, :, None], columns[:, None, :]] * inside[..., None]


def _within(index: Tensor, size: int) -> Tensor:
    return (index >= 0) & (index < size)
