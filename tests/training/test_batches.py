# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch

from decnn_tvm.errors import TrainingError
from decnn_tvm.training import ImageBatches, ImageData, LabelledImages
from tests.training.conftest import MEAN, STD, labelled


def test_batches_are_normalised_and_repeatable(data: ImageData) -> None:
    plain = ImageBatches(data, mean=MEAN, std=STD, batch_size=100, augment=False, seed=5)
    assert plain.steps == 5
    first = [labels for _, labels in plain.epoch(1)]
    assert all(torch.equal(a, b) for a, (_, b) in zip(first, plain.epoch(1), strict=True))
    assert not torch.equal(first[0], next(iter(plain.epoch(2)))[1])
    images, labels = next(plain.test())
    expected = (data.test.pixels.transpose(0, 3, 1, 2) / 255.0 - 0.5) / 0.25
    np.testing.assert_allclose(images.numpy(), expected, rtol=1e-5, atol=1e-6)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(labels.numpy(), data.test.labels)


def test_changed_images_are_shifts_and_mirrors_of_the_originals(data: ImageData) -> None:
    few = ImageData(
        train=LabelledImages(pixels=data.train.pixels[:6], labels=data.train.labels[:6]),
        test=data.test,
        classes=data.classes,
    )
    batches = ImageBatches(few, mean=(0,), std=(1 / 255,), batch_size=6)
    seen = set()
    for number in range(20):
        order = torch.randperm(6, generator=torch.Generator().manual_seed(number))
        images, labels = next(iter(batches.epoch(number)))
        assert torch.equal(labels, torch.from_numpy(few.train.labels)[order])
        for image, original in zip(images, few.train.pixels[order.numpy()], strict=True):
            seen.add(_change(image.permute(1, 2, 0).round().to(torch.uint8).numpy(), original))
    assert seen == {(dy, dx, flip) for dy in (-1, 0, 1) for dx in (-1, 0, 1) for flip in (0, 1)}


def _change(image: np.ndarray, original: np.ndarray) -> tuple[int, int, int]:
    padded = np.pad(original, ((1, 1), (1, 1), (0, 0)))
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            window = padded[1 + dy : 9 + dy, 1 + dx : 9 + dx]
            for flip, candidate in enumerate((window, window[:, ::-1])):
                if np.array_equal(image, candidate):
                    return dy, dx, flip
    raise AssertionError("an image is no shift of its original")


def test_batches_that_can_not_be() -> None:
    images = labelled(8, 1)
    data = ImageData(train=images, test=images, classes=tuple("abcd"))
    with pytest.raises(TrainingError, match="batch size 9"):
        ImageBatches(data, mean=MEAN, std=STD, batch_size=9)
    for std in ((0.0,), (-1.0,), (float("nan"),), (1.0, 1.0)):
        with pytest.raises(TrainingError, match="those of std above 0"):
            ImageBatches(data, mean=MEAN, std=std, batch_size=2)
