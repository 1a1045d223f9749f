# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from decnn_tvm.errors import TrainingError
from decnn_tvm.network import Network
from decnn_tvm.training import DatasetBatches, ImageBatches, Recipe, to_torch, train
from decnn_tvm.training.batches import Batch

RECIPE = Recipe(epochs=8, learning_rate=0.1, schedule="cosine", warmup_epochs=0.5)


def tensors(found: Iterator[Batch]) -> TensorDataset:
    images, labels = zip(*found, strict=True)
    return TensorDataset(torch.cat(images), torch.cat(labels))


def source(batches: ImageBatches, **options: Any) -> DatasetBatches:
    options = {"batch_size": 64, **options}
    return DatasetBatches(tensors(batches.epoch(0)), tensors(batches.test()), **options)


def test_a_dataset_of_torch_trains_too(
    grouped: Network, batches: ImageBatches, tmp_path: Path
) -> None:
    history = train(to_torch(grouped), source(batches), RECIPE, tmp_path)
    assert history[-1].accuracy > 0.8


class Sorted(Dataset[Any]):
    """Images by class, each full of its number, as a folder of classes lists them; shifted."""

    def __len__(self) -> int:
        return 400

    def __getitem__(self, index: int) -> Any:
        return torch.full((3, 8, 8), float(index)) + torch.rand(()), index // 100


def test_calibration_images_are_of_all_classes_and_repeatable() -> None:
    batches = DatasetBatches(Sorted(), Sorted(), batch_size=8, seed=1)
    found = batches.calibration(32)
    classes = {int(image.mean()) // 100 for image in found}
    assert classes == {0, 1, 2, 3} and len(found) == 32
    torch.rand(7)
    assert torch.equal(found, batches.calibration(32))
    constant = TensorDataset(torch.full((5, 3, 8, 8), -1.0), torch.zeros(5, dtype=torch.int64))
    other = DatasetBatches(Sorted(), Sorted(), batch_size=8, calibration=constant)
    assert other.calibration(32).shape == (5, 3, 8, 8) and other.calibration(2).max() == -1


def test_other_data_have_another_fingerprint(batches: ImageBatches) -> None:
    train_set, test_set = tensors(batches.epoch(0)), tensors(batches.test())
    images, labels = test_set.tensors
    brighter = TensorDataset(images + 1, labels)
    relabelled = TensorDataset(train_set.tensors[0], (train_set.tensors[1] + 1) % 4)
    found = [
        DatasetBatches(*pair, batch_size=64, seed=seed).fingerprint()
        for pair, seed in (
            ((train_set, test_set), 0),
            ((train_set, test_set), 1),
            ((train_set, brighter), 0),
            ((relabelled, test_set), 0),
        )
    ]
    assert len(set(found)) == 4
    assert source(batches).fingerprint() == found[0]


class Endless(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield torch.zeros(3, 8, 8), 0


class Broken(Dataset[Any]):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        raise OSError("the disk is gone")


LABELS = torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    ("dataset", "words"),
    [
        (Endless(), "expected one with a length"),
        (Broken(), "OSError: the disk is gone"),
        (TensorDataset(torch.zeros(0, 3, 8, 8), LABELS[:0]), "there are no training images"),
        (TensorDataset(torch.zeros(4, 3, 8, 8, dtype=torch.uint8), LABELS), "torch.uint8"),
        (TensorDataset(torch.zeros(4, 8), LABELS), "tensor of floats"),
        (TensorDataset(torch.zeros(4, 3, 8, 8), torch.eye(4)), "the label the number of a class"),
    ],
)
def test_datasets_that_can_not_be_used(dataset: Dataset[Any], words: str) -> None:
    with pytest.raises(TrainingError, match=words):
        DatasetBatches(dataset, Sorted(), batch_size=2)
