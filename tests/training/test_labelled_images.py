# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from decnn_tvm.errors import TrainingError
from decnn_tvm.training import ImageBatches, ImageData, LabelledImages, read_image_data
from tests.training.conftest import MEAN, STD, labelled


def write_images(folder: Path, images: LabelledImages) -> None:
    for index, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
        path = folder / "abcd"[label] / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def test_folders_of_classes_and_their_cache(tmp_path: Path) -> None:
    train, test = labelled(40, 1), labelled(16, 2)
    write_images(tmp_path / "data" / "train", train)
    write_images(tmp_path / "data" / "val", test)
    for _ in range(2):
        found = read_image_data(tmp_path / "data", (8, 8, 3), cache=tmp_path / "cache")
        assert found.classes == ("a", "b", "c", "d")
        order = np.argsort(train.labels, kind="stable")
        np.testing.assert_array_equal(found.train.pixels, train.pixels[order])
        np.testing.assert_array_equal(found.train.labels, train.labels[order])
        assert len(found.test.labels) == 16
    assert len(list((tmp_path / "cache").iterdir())) == 2
    larger = read_image_data(tmp_path / "data", (16, 12, 1))
    assert larger.train.pixels.shape == (40, 16, 12, 1)


def test_one_folder_is_split(tmp_path: Path) -> None:
    write_images(tmp_path, labelled(40, 1))
    found = read_image_data(tmp_path, (8, 8, 3), seed=3)
    assert (len(found.train.labels), len(found.test.labels)) == (36, 4)
    again = read_image_data(tmp_path, (8, 8, 3), seed=3)
    assert found.fingerprint() == again.fingerprint()
    assert found.fingerprint() != read_image_data(tmp_path, (8, 8, 3), seed=4).fingerprint()


def test_numpy_files(tmp_path: Path) -> None:
    images = labelled(30, 1)
    np.savez(tmp_path / "one.npz", images=images.pixels, labels=images.labels.astype("uint8"))
    assert len(read_image_data(tmp_path / "one.npz", (8, 8, 3)).test.labels) == 3
    with pytest.raises(TrainingError, match=r"takes \(32, 32, 3\)"):
        read_image_data(tmp_path / "one.npz", (32, 32, 3))
    np.savez(tmp_path / "odd.npz", pictures=images.pixels)
    with pytest.raises(TrainingError, match=r"\['pictures'\]: expected x_train"):
        read_image_data(tmp_path / "odd.npz", (8, 8, 3))
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    with pytest.raises(TrainingError, match="unreadable"):
        read_image_data(tmp_path / "bad.npz", (8, 8, 3))


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no folder of images"):
        read_image_data(tmp_path / "nothing", (8, 8, 3))
    with pytest.raises(TrainingError, match="0 folders of classes"):
        read_image_data(tmp_path, (8, 8, 3))
    write_images(tmp_path, labelled(8, 1))
    (tmp_path / "a" / "broken.png").write_text("no image")
    with pytest.raises(TrainingError, match=r"broken\.png: no image"):
        read_image_data(tmp_path, (8, 8, 3))
    images = labelled(8, 1)
    with pytest.raises(TrainingError, match="expected pixels of uint8"):
        LabelledImages(pixels=images.pixels.astype("float32"), labels=images.labels)
    with pytest.raises(TrainingError, match="labels of the training images go from 0 to 3"):
        ImageData(train=images, test=images, classes=("a", "b"))


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
    with pytest.raises(TrainingError, match="no std of 0"):
        ImageBatches(data, mean=MEAN, std=(0.0,), batch_size=2)
