# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from decnn_tvm.demo.classification import classify, some_test_images
from decnn_tvm.demo.data import cifar10_images
from decnn_tvm.demo.shipped_network import shipped_card, shipped_network
from decnn_tvm.errors import InputError, ModelError
from decnn_tvm.labelled_images import ImageData, LabelledImages
from decnn_tvm.training.report import network_cost


def test_the_card_is_that_of_the_network() -> None:
    card, network = shipped_card(), shipped_network()
    assert network.groups == 4 and network.outputs[0].shape == (1, len(card.classes))
    cost = network_cost(network)
    assert (cost.macs, cost.parameters) == (card.macs, card.parameters)
    assert card.recipe["epochs"] == card.epochs
    assert 0.7 < card.accuracy < 1 and card.wire_accuracy["float32"] == card.accuracy


def test_real_images_are_classified_over_workers(tmp_path: Path) -> None:
    """CIFAR-10's first 20 test images, of which a network that guesses gets 2 right."""
    found = classify(cifar10_images(), tmp_path / "package", workers=2)
    assert found.logits.error <= 1e-4 and found.logits.closest >= 1e-2
    assert found.right >= 15
    assert found.movements[-1] == "output"
    assert all(0.1 < sure <= 1 for sure in found.confidences)


def test_images_and_labels_of_foolbox() -> None:
    images = cifar10_images()
    assert images.pixels.shape == (20, 32, 32, 3)
    assert images.labels[:5].tolist() == [3, 8, 8, 0, 6]


def data(classes: list[str], count: int = 100) -> ImageData:
    part = LabelledImages(
        pixels=np.zeros((count, 32, 32, 3), "uint8"), labels=np.arange(count) % len(classes)
    )
    return ImageData(train=part, test=part, classes=tuple(classes))


def test_test_images_come_from_all_classes() -> None:
    for classes in (shipped_card().classes, [str(i) for i in range(10)]):
        chosen = some_test_images(data(classes), 7, Path("cifar10"))
        assert chosen.labels.tolist() == [i % 10 for i in (0, 16, 33, 49, 66, 82, 99)]
    assert len(some_test_images(data(classes), 1000, Path("cifar10")).labels) == 100
    with pytest.raises(InputError, match="1 test image; expected several"):
        some_test_images(data(classes, 1), 7, Path("cifar10"))
    with pytest.raises(InputError, match=r"pets has the classes \['a', 'b'\]; expected CIFAR-10's"):
        some_test_images(data(["a", "b"]), 7, Path("pets"))
    images = LabelledImages(pixels=np.zeros((1, 8, 8, 3), "uint8"), labels=np.zeros(1, "int64"))
    with pytest.raises(InputError, match="expected 32 x 32 pixels"):
        classify(images, Path("nowhere"))


def test_a_card_that_is_damaged(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="install decnn-tvm again"):
        shipped_card(tmp_path)
    card = {**dataclasses.asdict(shipped_card()), "colour": "blue"}
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(ModelError, match="colour"):
        shipped_card(tmp_path)
