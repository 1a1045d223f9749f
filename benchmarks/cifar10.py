# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10 as an archive of JPEG images: ``train/CLASS/*.jpg`` and ``test/CLASS/*.jpg``.

JPEG changes the images a little, so accuracies compare only with others on the same archive.
"""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from decnn_tvm.errors import TrainingError
from decnn_tvm.training import ImageData, LabelledImages, read_image_data

SHAPE = (32, 32, 3)


def read_cifar10(archive: Path, cache: Path) -> ImageData:
    """Return the images, decoded once into an ``.npz`` file in the folder `cache`.

    Raises
    ------
    TrainingError
        The archive is missing, or holds something else.
    """
    if not archive.is_file():
        raise TrainingError(f"{archive}: no such file; expected the archive of CIFAR-10 in JPEG")
    path = cache / f"cifar10-{archive.stat().st_size}.npz"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        draft = cache / f".{os.getpid()}-{path.name}"
        np.savez(draft, **_decoded(archive))  # type: ignore[arg-type]
        os.replace(draft, path)
    return read_image_data(path, SHAPE)


def first_images(data: ImageData, train: int, test: int) -> ImageData:
    """Return `train` and `test` images drawn from all; the same ones each time."""

    def some(images: LabelledImages, count: int) -> LabelledImages:
        order = np.random.default_rng(0).permutation(len(images.labels))[:count]
        return LabelledImages(pixels=images.pixels[order], labels=images.labels[order])

    return ImageData(
        train=some(data.train, train), test=some(data.test, test), classes=data.classes
    )


def channel_statistics(data: ImageData) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and deviation of the training pixels, in 0 to 1, per channel."""
    pixels = data.train.pixels[:: max(1, len(data.train.labels) // 5000)] / np.float32(255)
    mean, std = pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))
    return tuple(map(float, mean.round(4))), tuple(map(float, std.round(4)))


def _decoded(archive: Path) -> dict[str, npt.NDArray[Any]]:
    found: dict[str, list[tuple[str, str, bytes]]] = {"train": [], "test": []}
    with tarfile.open(archive) as files:
        for member in files:
            part, _, rest = member.name.removeprefix("./").partition("/")
            name, _, file = rest.partition("/")
            content = files.extractfile(member) if member.isfile() else None
            if part in found and file and content is not None:
                found[part].append((name, file, content.read()))
    classes = sorted({name for name, _, _ in found["train"]})
    if len(classes) < 2 or not found["test"]:
        raise TrainingError(f"{archive}: expected train/CLASS/*.jpg and test/CLASS/*.jpg")
    arrays: dict[str, npt.NDArray[Any]] = {"classes": np.array(classes)}
    for part, entries in found.items():
        entries.sort(key=lambda entry: entry[:2])
        pixels = np.empty((len(entries), *SHAPE), "uint8")
        for index, (_, _, content_bytes) in enumerate(entries):
            with Image.open(io.BytesIO(content_bytes)) as image:
                pixels[index] = np.asarray(image.convert("RGB"))
        arrays[f"x_{part}"] = pixels
        arrays[f"y_{part}"] = np.array([classes.index(name) for name, _, _ in entries])
    return arrays
