# SPDX-License-Identifier: Apache-2.0
"""What can't be trained is said before anything is: networks, images, labels, teachers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from decnn_tvm.decoupling import decouple
from decnn_tvm.errors import TrainingError
from decnn_tvm.frontend import load
from decnn_tvm.network import Network
from decnn_tvm.training import (
    Distillation,
    ImageBatches,
    Recipe,
    decouple_calibrated,
    restore_batch_norms,
    to_torch,
    train_network,
)
from decnn_tvm.training.batches import Batch
from tests.training.conftest import Small, small_network

ONCE = Recipe(epochs=1, learning_rate=0.1)


class Given:
    """One batch, for training and for testing."""

    steps = 1

    def __init__(self, images: Any, labels: Any) -> None:
        self.batch: Batch = (images, labels)

    def epoch(self, number: int) -> Iterator[Batch]:
        yield self.batch

    def test(self) -> Iterator[Batch]:
        yield self.batch

    def calibration(self, count: int) -> torch.Tensor:
        return self.batch[0]

    def fingerprint(self) -> str:
        return ""


IMAGES, LABELS = torch.zeros(4, 3, 8, 8), torch.arange(4)


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (IMAGES.permute(0, 2, 3, 1), LABELS, r"\[4, 8, 8, 3\]; expected floats"),
        (IMAGES.byte(), LABELS, "torch.uint8"),
        (IMAGES, LABELS + 1, "labels go from 1 to 4; expected 0 to 3"),
        (IMAGES, LABELS - 1, "labels go from -1 to 2"),
        (IMAGES, torch.eye(4), "expected the number of a class"),
        (IMAGES.to("meta"), LABELS, "images are on meta"),
    ],
)
def test_images_and_labels_that_do_not_fit(
    images: Any, labels: Any, words: str, grouped: Network, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=words):
        train_network(grouped, Given(images, labels), tmp_path, ONCE)
    assert not list(tmp_path.iterdir())


def test_no_images_to_test_with(grouped: Network, tmp_path: Path) -> None:
    class Untested(Given):
        def test(self) -> Iterator[Batch]:
            yield from ()

    with pytest.raises(TrainingError, match="no test batches"):
        train_network(grouped, Untested(IMAGES, LABELS), tmp_path, ONCE)


def test_a_teacher_for_other_classes(
    grouped: Network, batches: ImageBatches, tmp_path: Path
) -> None:
    module = Small().eval()
    module.fc = nn.Linear(32, 7)
    other = load(torch.export.export(module, (torch.zeros(1, 3, 8, 8),)), name="seven")
    recipe = Recipe(epochs=1, distillation=Distillation())
    with pytest.raises(TrainingError, match="teacher 'seven' gives"):
        train_network(grouped, batches, tmp_path, recipe, teacher=other)


def test_a_wire_of_a_network_that_exchanges_nothing(
    dense: Network, batches: ImageBatches, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="wire int8: network 'small' is not decoupled"):
        train_network(dense, batches, tmp_path, Recipe(epochs=1, wire="int8"))
    _, report = train_network(dense, batches, tmp_path, ONCE)
    assert set(report.wire_accuracy) == {"float32"} and "exchanges" not in report.to_text()


def test_dropout_where_there_is_no_dense_layer() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    net = load(torch.export.export(layers, (torch.zeros(1, 3, 8, 8),)), name="convolutions")
    with pytest.raises(TrainingError, match="no dense layer to drop inputs of"):
        to_torch(net, dropout=0.5)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (IMAGES.numpy(), "float32"),
        (IMAGES.byte(), "torch.uint8"),
        (IMAGES[:, :1], r"\[4, 1, 8, 8\]; expected a tensor"),
        (IMAGES[:0], "no images"),
        (IMAGES / 0, "NaN"),
    ],
)
def test_calibration_images_that_do_not_fit(images: Any, words: str, dense: Network) -> None:
    for use in (decouple_calibrated, restore_batch_norms):
        with pytest.raises(TrainingError, match=words):
            use(dense, images)


@pytest.mark.parametrize("last", [nn.Softmax(1), nn.LogSoftmax(1)])
def test_a_softmax_at_the_end_is_not_trained_through(
    last: nn.Module, batches: ImageBatches, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    plain = Small().eval()
    ended = nn.Sequential(plain, last).eval()
    example = (torch.zeros(1, 3, 8, 8),)
    nets = [load(torch.export.export(module, example), name="net") for module in (plain, ended)]
    histories = [
        train_network(net, batches, tmp_path / str(index), ONCE)[1].history
        for index, net in enumerate(nets)
    ]
    assert histories[0][0].loss == histories[1][0].loss
    trained = train_network(nets[1], batches, tmp_path / "1", ONCE)[0]
    answers = to_torch(trained)(next(batches.test())[0])
    if isinstance(last, nn.Softmax):
        torch.testing.assert_close(answers.sum(1), torch.ones(len(answers)))
    else:
        torch.testing.assert_close(answers.exp().sum(1), torch.ones(len(answers)))


def test_fresh_weights_are_fresh_everywhere() -> None:
    """Also where no layer changes its size, and in the layers that stay dense."""
    dense = small_network()
    before = to_torch(dense).state_dict()
    after = to_torch(decouple(dense, weights="fresh", seed=3)).state_dict()
    for name in ("stem.weight", "conv1.weight", "conv3.weight"):
        old = before[name][:, : after[name].shape[1]]
        assert torch.isclose(after[name], old, rtol=1e-3).float().mean() < 0.01, name
