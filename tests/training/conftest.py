# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from decnn_tvm.decoupling import decouple
from decnn_tvm.frontend import load
from decnn_tvm.network import Network
from decnn_tvm.training import ImageBatches, ImageData, LabelledImages

MEAN, STD = (0.5,), (0.25,)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Compute on one thread, so that sums come out the same each time."""
    torch.set_num_threads(1)


class Small(nn.Module):
    """A residual network for 8x8 images of 4 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.conv1 = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(32)
        self.fc = nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.bn(self.stem(x)))
        x = functional.relu(self.bn1(self.conv1(x)) + x)
        x = functional.relu(self.bn2(self.conv2(x)))
        x = functional.relu(self.bn3(self.conv3(x)) + x)
        return self.fc(x.mean([2, 3]))  # type: ignore[no-any-return]


def small_network(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    module = Small().eval()
    return load(torch.export.export(module, (torch.zeros(1, 3, 8, 8),)), name="small")


def labelled(count: int, seed: int) -> LabelledImages:
    """Draw images whose class is the corner that is bright, in noise."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, count)
    pixels = random.integers(0, 150, (count, 8, 8, 3))
    for image, label in zip(pixels, labels, strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        image[row : row + 4, column : column + 4] += 60
    return LabelledImages(pixels=pixels.astype("uint8"), labels=labels)


@pytest.fixture(scope="session")
def data() -> ImageData:
    return ImageData(train=labelled(512, 1), test=labelled(256, 2), classes=("a", "b", "c", "d"))


@pytest.fixture
def batches(data: ImageData) -> ImageBatches:
    return ImageBatches(data, mean=MEAN, std=STD, batch_size=64, augment=False)


@pytest.fixture(scope="session")
def dense() -> Network:
    return small_network()


@pytest.fixture(scope="session")
def grouped(dense: Network) -> Network:
    return decouple(dense, weights="fresh", shuffle="stage")
