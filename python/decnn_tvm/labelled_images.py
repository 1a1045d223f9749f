# SPDX-License-Identifier: Apache-2.0
"""Labelled images as arrays of 8-bit pixels, read from folders or NumPy files.

Images are decoded once, at the size that the network takes, and kept as one array; with a cache
folder they are mapped from disk the next time.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from decnn_tvm.errors import InputError

Array: TypeAlias = npt.NDArray[Any]

logger = logging.getLogger(__name__)
_TEST_FOLDERS = ("test", "val", "validation")
_IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff"})
_LAYOUT = (
    "expected train/CLASS/*.jpg and test/CLASS/*.jpg (or val/), or CLASS/*.jpg, of which a tenth "
    "is kept for testing"
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LabelledImages:
    """Images and what they show.

    Attributes
    ----------
    pixels : array of uint8
        (images, height, width, channels).
    labels : array of int64
        The number of each image's class.
    """

    pixels: Array
    labels: Array

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 4:
            raise InputError(
                f"images are {self.pixels.dtype}{self.pixels.shape}: expected pixels of uint8, "
                "(images, height, width, channels)"
            )
        if self.labels.shape != self.pixels.shape[:1] or self.labels.dtype != np.int64:
            raise InputError(
                f"labels are {self.labels.dtype}{self.labels.shape}: expected one whole number for "
                f"each of the {len(self.pixels)} images"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageData:
    """Images to train with and images to test with, and the names of the classes."""

    train: LabelledImages
    test: LabelledImages
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        for name, part in (("training", self.train), ("test", self.test)):
            if not len(part.labels):
                raise InputError(f"there are no {name} images")
            low, high = int(part.labels.min()), int(part.labels.max())
            if low < 0 or high >= len(self.classes):
                raise InputError(
                    f"labels of the {name} images go from {low} to {high}: expected 0 to "
                    f"{len(self.classes) - 1}, for {len(self.classes)} classes"
                )
        if self.train.pixels.shape[1:] != self.test.pixels.shape[1:]:
            raise InputError(
                f"training images are {self.train.pixels.shape[1:]}, test images "
                f"{self.test.pixels.shape[1:]}: expected one size"
            )

    def fingerprint(self) -> str:
        """Return a short text that differs where the data do, from a sample of the pixels."""
        digest = hashlib.sha256()
        for part in (self.train, self.test):
            step = max(1, len(part.labels) // 64)
            digest.update(str(part.pixels.shape).encode())
            digest.update(np.ascontiguousarray(part.labels).tobytes())
            digest.update(np.ascontiguousarray(part.pixels[::step]).tobytes())
        return digest.hexdigest()[:16]


def read_image_data(
    path: str | Path,
    shape: Sequence[int],
    *,
    cache: str | Path | None = None,
    seed: int = 0,
) -> ImageData:
    """Read images and labels.

    Parameters
    ----------
    path : str or Path
        A folder ``train/CLASS/*``, ``test/CLASS/*``; a folder ``CLASS/*``, of which a tenth is kept
        for testing; or an ``.npz`` file with ``x_train``, ``y_train``, ``x_test``, ``y_test`` (or
        ``images`` and ``labels``), pixels of uint8 (images, height, width, channels).
    shape : sequence of int
        Height, width and channels that the network takes. Images in files are resized to it.
    cache : str or Path, optional
        Folder for the decoded images.
    seed : int
        Of the choice of test images, where there is no folder of them.

    Raises
    ------
    InputError
        Nothing is there, or in another form; the message says what was expected.
    """
    source = Path(path)
    if source.is_dir():
        return _from_folder(source, tuple(shape), None if cache is None else Path(cache), seed)
    if source.suffix == ".npz" and source.is_file():
        return _sized(_from_numpy(source, seed), tuple(shape), source)
    raise InputError(f"{source}: no folder of images and no .npz file; {_LAYOUT}")


def split_images(images: LabelledImages, classes: tuple[str, ...], seed: int) -> ImageData:
    """Keep a tenth of the images, at least one, for testing."""
    order = np.random.default_rng(seed).permutation(len(images.labels))
    count = max(1, len(order) // 10)
    test, train = np.sort(order[:count]), np.sort(order[count:])
    return ImageData(train=_chosen(images, train), test=_chosen(images, test), classes=classes)


def _chosen(images: LabelledImages, index: Array) -> LabelledImages:
    return LabelledImages(pixels=images.pixels[index], labels=images.labels[index])


def _from_numpy(path: Path, seed: int) -> ImageData:
    try:
        # NumPy leaves a file open that it can't read, unless the file is ours.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path}: unreadable ({error}); write it with numpy.savez") from error
    except (TypeError, AttributeError) as error:  # a single array, whatever its name says
        raise InputError(f"{path}: holds a single array; write it with numpy.savez") from error
    names = ("x_train", "y_train", "x_test", "y_test")
    if set(names) <= set(arrays):
        pairs = [(arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])]
    elif {"images", "labels"} <= set(arrays):
        pairs = [(arrays["images"], arrays["labels"])]
    else:
        raise InputError(
            f"{path} holds {sorted(arrays)}: expected {', '.join(names)}, or images and labels"
        )
    parts = [
        LabelledImages(pixels=pixels, labels=_numbers(path, labels)) for pixels, labels in pairs
    ]
    count = 1 + max(int(part.labels.max(initial=0)) for part in parts)
    classes = tuple(map(str, arrays.get("classes", np.arange(count))))
    if len(parts) == 1:
        return split_images(parts[0], classes, seed)
    return ImageData(train=parts[0], test=parts[1], classes=classes)


def _numbers(path: Path, labels: Array) -> Array:
    if not np.issubdtype(labels.dtype, np.integer):
        raise InputError(
            f"{path}: labels are {labels.dtype}; expected whole numbers, that of a class each"
        )
    return labels.astype("int64").reshape(-1)


def _sized(data: ImageData, shape: tuple[int, ...], source: Path) -> ImageData:
    if data.train.pixels.shape[1:] != shape:
        raise InputError(
            f"{source}: images are {data.train.pixels.shape[1:]}, the network takes {shape} "
            "(height, width, channels); resize them"
        )
    return data


def _from_folder(folder: Path, shape: tuple[int, ...], cache: Path | None, seed: int) -> ImageData:
    test = next((folder / name for name in _TEST_FOLDERS if (folder / name).is_dir()), None)
    split = (folder / "train").is_dir() and test is not None
    train = folder / "train" if split else folder
    classes = tuple(sorted(entry.name for entry in train.iterdir() if entry.is_dir()))
    if len(classes) < 2:
        raise InputError(f"{train} holds {len(classes)} folders of classes; {_LAYOUT}")
    images = _decoded(train, classes, shape, cache)
    if not split:
        return split_images(images, classes, seed)
    assert test is not None
    return ImageData(train=images, test=_decoded(test, classes, shape, cache), classes=classes)


def _decoded(
    folder: Path, classes: tuple[str, ...], shape: tuple[int, ...], cache: Path | None
) -> LabelledImages:
    files = [
        (file, label)
        for label, name in enumerate(classes)
        for file in sorted((folder / name).glob("*"))
        if file.suffix.lower() in _IMAGES
    ]
    if not files:
        raise InputError(f"{folder}: no images in the folders {list(classes[:3])} …; {_LAYOUT}")
    labels = np.array([label for _, label in files], "int64")
    size = (len(files), *shape)
    if cache is None:
        pixels = np.empty(size, "uint8")
        _decode(files, pixels)
        return LabelledImages(pixels=pixels, labels=labels)
    names = json.dumps([[str(file), file.stat().st_size] for file, _ in files])
    key = hashlib.sha256(f"{shape}{names}".encode()).hexdigest()[:16]
    path = cache / f"pixels-{key}.npy"
    try:
        if not path.exists():
            _write_decoded(files, path, size)
        pixels = np.load(path, mmap_mode="c")
    except (OSError, ValueError) as error:
        raise InputError(
            f"decoded images can't be kept in {cache} ({error}); they take "
            f"{math.prod(size) / 1e6:.0f} MB there"
        ) from error
    return LabelledImages(pixels=pixels, labels=labels)


def _write_decoded(files: Sequence[tuple[Path, int]], path: Path, size: tuple[int, ...]) -> None:
    """Write decoded images to a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        pixels = np.lib.format.open_memmap(draft, "w+", "uint8", size)
        with draft.open("r+b") as file:  # on a full disk a mapping would end the process
            os.posix_fallocate(file.fileno(), 0, draft.stat().st_size)
        _decode(files, pixels)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _decode(files: Sequence[tuple[Path, int]], pixels: Array) -> None:
    from PIL import Image, UnidentifiedImageError

    _, height, width, channels = pixels.shape
    for index, (file, _) in enumerate(files):
        try:
            with Image.open(file) as image:
                whole = image.convert("RGB" if channels == 3 else "L").resize((width, height))
        except (
            UnidentifiedImageError,
            Image.DecompressionBombError,
            OSError,
            ValueError,
            SyntaxError,  # of a PNG's parts
        ) as error:
            raise InputError(f"{file}: no image that can be read ({error})") from error
        pixels[index] = np.asarray(whole).reshape(height, width, channels)
