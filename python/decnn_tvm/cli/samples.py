# SPDX-License-Identifier: Apache-2.0
"""Samples for ``decnn run``: NumPy files, images, or seeded noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from decnn_tvm.errors import InputError
from decnn_tvm.plan import Plan, Value

Array: TypeAlias = npt.NDArray[Any]
Sample: TypeAlias = "Array | dict[str, Array]"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class Normalization:
    """How pixels become numbers: ``(pixel / 255 - mean) / std`` for each channel."""

    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD


def read_sample(
    path: Path, model: str, inputs: Sequence[Value], normalization: Normalization
) -> Sample:
    """Read one sample.

    Parameters
    ----------
    path : Path
        ``.npy`` with one array, ``.npz`` with an array for each input, or an image.
    model : str
        The network's name, for messages.
    inputs : sequence of Value
        Its inputs.
    normalization : Normalization
        For images, unless the input takes pixels as they are (uint8).

    Raises
    ------
    InputError
        The file is missing or unreadable, or an image does not suit the network's input.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file.")
    if path.suffix in (".npy", ".npz"):
        return _numpy(path)
    if len(inputs) != 1:
        raise InputError(
            f"{path}: {model!r} has the inputs {[value.name for value in inputs]}; pass an .npz "
            "file with an array for each of them."
        )
    return image_sample(path, inputs[0], normalization)


def image_sample(path: Path, value: Value, normalization: Normalization) -> Array:
    """Read an image, resize it to the input's height and width, and normalize it.

    For an input of uint8 the pixels stay as they are: the network normalizes them itself.
    """
    from PIL import Image, UnidentifiedImageError

    height, width, channels, last = _image_layout(path, value)
    try:
        with Image.open(path) as image:
            resized = image.convert("RGB" if channels == 3 else "L").resize((width, height))
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise InputError(f"{path}: neither a NumPy file nor an image ({error}).") from error
    pixels = np.asarray(resized).reshape(height, width, channels)
    if value.dtype != "uint8":
        pixels = normalize(pixels, normalization).astype(value.dtype)
    return np.ascontiguousarray((pixels if last else pixels.transpose(2, 0, 1))[np.newaxis])


def normalize(pixels: Array, normalization: Normalization) -> Array:
    """Return pixels of uint8, (height, width, channels), as numbers."""
    channels = pixels.shape[-1]
    mean, std = (np.asarray(x, "float32") for x in (normalization.mean, normalization.std))
    if any(len(x) not in (1, channels) for x in (mean, std)) or not std.all():
        raise InputError(
            f"mean {mean.tolist()}, std {std.tolist()}: expected 1 or {channels} numbers each, "
            "and no std of 0."
        )
    normal: Array = (pixels.astype("float32") / np.float32(255) - mean) / std
    return normal


def noise(plan: Plan, count: int, seed: int) -> Iterator[Sample]:
    """Draw `count` samples for every input: standard normal numbers, or any pixels."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield {name: _drawn(random, plan.value(name)) for name in plan.inputs}


def _drawn(random: np.random.Generator, value: Value) -> Array:
    if value.dtype == "uint8":
        return random.integers(0, 256, value.shape, dtype="uint8")
    return random.standard_normal(value.shape).astype(value.dtype)


def _numpy(path: Path) -> Sample:
    try:
        data = np.load(path, allow_pickle=False)
        return data if isinstance(data, np.ndarray) else {name: data[name] for name in data.files}
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{path}: unreadable ({error}). Write it with numpy.save.") from error


def _image_layout(path: Path, value: Value) -> tuple[int, int, int, bool]:
    """Return height, width, channels, and whether the channels come last."""
    shape = value.shape
    if len(shape) == 4 and shape[0] == 1 and shape[1] in (1, 3):
        return shape[2], shape[3], shape[1], False
    if len(shape) == 4 and shape[0] == 1 and shape[3] in (1, 3):
        return shape[1], shape[2], shape[3], True
    raise InputError(
        f"{path}: input {value.name!r} of shape {shape} is no single image with 1 or 3 channels; "
        "pass an .npy file of that shape."
    )
