# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from decnn_tvm.errors import InputError
from decnn_tvm.labelled_images import ImageData, LabelledImages, read_image_data


def labelled(count: int, seed: int) -> LabelledImages:
    """Draw images of four classes."""
    random = np.random.default_rng(seed)
    return LabelledImages(
        pixels=random.integers(0, 256, (count, 8, 8, 3), "uint8"),
        labels=random.permutation(np.arange(count) % 4),
    )


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
    with pytest.raises(InputError, match=r"takes \(32, 32, 3\)"):
        read_image_data(tmp_path / "one.npz", (32, 32, 3))
    np.savez(tmp_path / "odd.npz", pictures=images.pixels)
    with pytest.raises(InputError, match=r"\['pictures'\]: expected x_train"):
        read_image_data(tmp_path / "odd.npz", (8, 8, 3))
    (tmp_path / "bad.npz").write_bytes(b"no archive")
    whole = (tmp_path / "one.npz").read_bytes()
    for content in (b"no archive", b"", whole[: len(whole) // 2]):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(InputError, match="unreadable"):
            read_image_data(tmp_path / "bad.npz", (8, 8, 3))
    np.save(tmp_path / "array.npy", images.pixels)
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with pytest.raises(InputError, match="holds a single array"):
        read_image_data(tmp_path / "array.npz", (8, 8, 3))


@pytest.mark.parametrize("labels", [np.full(30, 0.7), np.full(30, "cat")])
def test_labels_that_are_no_numbers_of_classes(labels: np.ndarray, tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", images=labelled(30, 1).pixels, labels=labels)
    with pytest.raises(InputError, match="expected whole numbers"):
        read_image_data(tmp_path / "one.npz", (8, 8, 3))


def test_a_cache_that_can_not_be_written(tmp_path: Path) -> None:
    write_images(tmp_path / "data", labelled(8, 1))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"can't be kept in .*file"):
        read_image_data(tmp_path / "data", (8, 8, 3), cache=tmp_path / "file")
    (tmp_path / "data" / "a" / "broken.png").write_text("no image")
    with pytest.raises(InputError, match=r"broken\.png"):
        read_image_data(tmp_path / "data", (8, 8, 3), cache=tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_an_image_too_large_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    write_images(tmp_path, labelled(8, 1))
    with pytest.raises(InputError, match="no image that can be read"):
        read_image_data(tmp_path, (8, 8, 3))


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder of images"):
        read_image_data(tmp_path / "nothing", (8, 8, 3))
    with pytest.raises(InputError, match="0 folders of classes"):
        read_image_data(tmp_path, (8, 8, 3))
    write_images(tmp_path, labelled(8, 1))
    (tmp_path / "a" / "broken.png").write_text("no image")
    with pytest.raises(InputError, match=r"broken\.png: no image"):
        read_image_data(tmp_path, (8, 8, 3))
    images = labelled(8, 1)
    with pytest.raises(InputError, match="expected pixels of uint8"):
        LabelledImages(pixels=images.pixels.astype("float32"), labels=images.labels)
    with pytest.raises(InputError, match="labels of the training images go from 0 to 3"):
        ImageData(train=images, test=images, classes=("a", "b"))
