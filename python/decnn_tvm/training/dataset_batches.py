# SPDX-License-Identifier: Apache-2.0
"""Batches from a `torch.utils.data.Dataset`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from decnn_tvm.errors import TrainingError
from decnn_tvm.training.batches import Batch

_SAMPLE = 16  # images of a dataset that its fingerprint looks at


class DatasetBatches:
    """Batches of two datasets, which do to their images what they want.

    Parameters
    ----------
    train, test : torch.utils.data.Dataset
        Of (image, label), an image being a float tensor (C, H, W).
    batch_size, seed, device
        As for `ImageBatches`.
    workers : int
        Processes that read.
    calibration : torch.utils.data.Dataset, optional
        What calibration images are drawn of: the training images without random changes. By default
        `train`, with the changes that it makes.

    Raises
    ------
    TrainingError
        A dataset has no length, no images, or images that are no tensors.
    """

    def __init__(
        self,
        train: Dataset[Any],
        test: Dataset[Any],
        *,
        batch_size: int,
        seed: int = 0,
        workers: int = 0,
        calibration: Dataset[Any] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.train_set, self.test_set = train, test
        self.calibration_set = train if calibration is None else calibration
        self.batch_size, self.seed, self.workers = batch_size, seed, workers
        self.device = torch.device(device)
        self._count = _count(train, "training")
        _count(self.calibration_set, "calibration")
        self._tested = _count(test, "test")
        if not 1 <= batch_size <= self._count:
            raise TrainingError(
                f"batch size {batch_size}: expected 1 to {self._count}, the training images"
            )

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return self._count // self.batch_size

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield the training batches of an epoch."""
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        yield from self._batches(self.train_set, shuffle=True, generator=random, drop_last=True)

    def test(self) -> Iterator[Batch]:
        """Yield the test batches."""
        yield from self._batches(self.test_set)

    def calibration(self, count: int) -> Tensor:
        """Return `count` images of the calibration set, drawn by the seed."""
        with torch.random.fork_rng([]):
            torch.manual_seed(self.seed)  # of what the dataset does to its images
            order = torch.randperm(len(self.calibration_set))[:count]  # type: ignore[arg-type]
            return torch.stack([self.calibration_set[int(index)][0] for index in order])

    def fingerprint(self) -> str:
        """Return a short text that differs where sizes do, or labels or test images of a sample."""
        digest = hashlib.sha256()
        for dataset, size, whole in (
            (self.train_set, self._count, False),
            (self.test_set, self._tested, True),
        ):
            for index in range(0, size, max(1, size // _SAMPLE)):
                image, label = dataset[index]
                digest.update(str(int(label)).encode())
                if whole:  # training images are changed at random
                    digest.update(image.numpy().tobytes())
        sizes = f"{self._count}-{self._tested}-{self.batch_size}-{self.seed}"
        return f"{sizes}-{digest.hexdigest()[:16]}"

    def _batches(self, dataset: Dataset[Any], **options: Any) -> Iterator[Batch]:
        pinned = self.device.type == "cuda"
        loader = DataLoader(
            dataset,
            batch_size=self.batch_size,
            num_workers=self.workers,
            pin_memory=pinned,
            **options,
        )
        for images, labels in loader:
            yield (
                images.to(self.device, non_blocking=pinned),
                torch.as_tensor(labels).to(self.device, non_blocking=pinned),
            )


def _count(dataset: Dataset[Any], name: str) -> int:
    """Return how many images a dataset has, once one of them has been looked at."""
    try:
        count = len(dataset)  # type: ignore[arg-type]
        image, label = dataset[0] if count else (None, 0)
        int(label)
    except Exception as error:  # it is the caller's code
        raise TrainingError(
            f"the {name} dataset can't be used ({type(error).__name__}: {error}); expected one "
            "with a length, of (image, label) by index, the label the number of a class"
        ) from error
    if not count:
        raise TrainingError(f"there are no {name} images: expected one or more")
    if not isinstance(image, Tensor) or not image.is_floating_point() or image.dim() != 3:
        got = getattr(image, "dtype", type(image).__name__)
        raise TrainingError(
            f"an image of the {name} dataset is {got}{list(getattr(image, 'shape', ()))}; expected "
            "a tensor of floats (C, H, W), normalised as the network takes it"
        )
    return count
